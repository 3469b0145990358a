/*
 * symbols.c -- a look into the ELF object of a definition before it is linked.
 *
 * State belongs to an instance (RK_STATE, or a state schema), so an object that could be written at
 * run time and belongs to the whole file is an error: on a GPU it would be shared by all instances,
 * lost at an image swap, and invisible to the runtime. Also the size of the block-shared scratch is
 * checked here, where the compiler has summed it up.
 *
 * Threads: any; works on its own mapping of the file.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/error.h"
#include "device/device.h"

/* The reductions of rk_kernel.h take their part of a block's scratch on a GPU. */
enum { SHARED_LIMIT = RK_SHARED_SIZE - 1024, SHARED_START = 16 };

struct object {
    const unsigned char *bytes;
    size_t size;
    const Elf64_Shdr *sections;
    size_t section_count;
    const Elf64_Shdr *names;
};

/* ---- the file ------------------------------------------------------------------------------- */

static bool inside(const struct object *o, uint64_t offset, uint64_t size)
{
    return offset <= o->size && size <= o->size - offset;
}

static bool parse(struct object *o)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)o->bytes;
    if (o->size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shentsize != sizeof(Elf64_Shdr) ||
        header->e_shoff % 8 != 0 ||
        !inside(o, header->e_shoff, (uint64_t)header->e_shnum * sizeof(Elf64_Shdr)) ||
        header->e_shstrndx >= header->e_shnum) {
        return false;
    }
    o->sections = (const Elf64_Shdr *)(o->bytes + header->e_shoff);
    o->section_count = header->e_shnum;
    o->names = &o->sections[header->e_shstrndx];
    for (size_t i = 0; i < o->section_count; i++) {
        const Elf64_Shdr *section = &o->sections[i];
        if (section->sh_type != SHT_NOBITS && !inside(o, section->sh_offset, section->sh_size)) {
            return false;
        }
    }
    return true;
}

/* A string of a string table, "" when it is not inside or does not end there. */
static const char *string_at(const struct object *o, const Elf64_Shdr *table, uint32_t at)
{
    if (table->sh_type != SHT_STRTAB || at >= table->sh_size) {
        return "";
    }
    const char *text = (const char *)o->bytes + table->sh_offset + at;
    return memchr(text, '\0', table->sh_size - at) ? text : "";
}

static const char *section_name(const struct object *o, const Elf64_Shdr *section)
{
    return string_at(o, o->names, section->sh_name);
}

/* ---- symbols -------------------------------------------------------------------------------- */

/* Constants with addresses in them are in .data.rel.ro: written once, by the loader. Names with two
 * underscores are the compiler's (sanitizers add some). */
static bool is_mutable(const struct object *o, const Elf64_Sym *symbol, const char *name)
{
    if (!*name || strncmp(name, "__", 2) == 0) {
        return false;
    }
    int type = ELF64_ST_TYPE(symbol->st_info);
    if (symbol->st_shndx == SHN_COMMON) {
        return true;
    }
    if ((type != STT_OBJECT && type != STT_TLS) || symbol->st_shndx >= o->section_count) {
        return false;
    }
    const Elf64_Shdr *section = &o->sections[symbol->st_shndx];
    return section->sh_flags & SHF_WRITE &&
           strncmp(section_name(o, section), ".data.rel.ro", 12) != 0;
}

static bool is_word(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Line of the first use of a name as a whole word in the user's text; 0: nowhere. */
static int line_of(const rk__kernel *kernel, const char *name, size_t size)
{
    int line = kernel->source_line;
    for (const char *at = kernel->text; *at; at++) {
        bool starts = at == kernel->text || !is_word(at[-1]);
        if (starts && strncmp(at, name, size) == 0 && !is_word(at[size])) {
            return line;
        }
        line += *at == '\n';
    }
    return 0;
}

/* A static local `n` of a function f is called n.0 by gcc and f.n by clang. */
static void describe(rk__strbuf *out, const rk__kernel *kernel, const char *name)
{
    const char *dot = strchr(name, '.');
    if (dot && is_word(dot[1]) && !(dot[1] >= '0' && dot[1] <= '9')) {
        name = dot + 1;
    }
    size_t size = strcspn(name, ".");
    int line = line_of(kernel, name, size);
    rk__strbuf_addf(out, "%s%.*s", out->size ? ", " : "", (int)size, name);
    if (line) {
        rk__strbuf_addf(out, " (%s:%d)", kernel->source_name, line);
    }
}

static void find_mutable(const struct object *o, const rk__kernel *kernel, rk__strbuf *out)
{
    for (size_t i = 0; i < o->section_count; i++) {
        const Elf64_Shdr *table = &o->sections[i];
        if (table->sh_type != SHT_SYMTAB || table->sh_link >= o->section_count ||
            table->sh_offset % 8 != 0) {
            continue;
        }
        const Elf64_Sym *symbols = (const Elf64_Sym *)(o->bytes + table->sh_offset);
        for (size_t j = 0; j < table->sh_size / sizeof *symbols; j++) {
            const char *name = string_at(o, &o->sections[table->sh_link], symbols[j].st_name);
            if (is_mutable(o, &symbols[j], name)) {
                describe(out, kernel, name);
            }
        }
    }
}

static uint64_t shared_bytes(const struct object *o)
{
    for (size_t i = 0; i < o->section_count; i++) {
        if (strcmp(section_name(o, &o->sections[i]), "rk_shared") == 0) {
            return o->sections[i].sh_size - SHARED_START;
        }
    }
    return 0;
}

static int check(const struct object *o, const rk__kernel *kernel)
{
    rk__strbuf found = RK__STRBUF_INIT;
    int rc = 0;
    find_mutable(o, kernel, &found);
    uint64_t shared = shared_bytes(o);
    if (found.size) {
        rc = rk__fail(RK_ECOMPILE,
                      "kernel \"%s\" has variables that keep a value between messages outside its "
                      "state: %s; put them into RK_STATE or a state schema, or make them const",
                      kernel->base.name, found.bytes);
    } else if (shared > SHARED_LIMIT) {
        rc = rk__fail(RK_ECOMPILE, "kernel \"%s\" wants %llu bytes of RK_SHARED; a block has %d",
                      kernel->base.name, (unsigned long long)shared, (int)SHARED_LIMIT);
    }
    rk__strbuf_free(&found);
    return rc;
}

int rk__symbols_check(const char *object_path, const rk__kernel *kernel)
{
    struct stat s;
    int fd = open(object_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &s) < 0 || s.st_size <= 0) {
        int rc = rk__fail_errno(RK_EIO, "cannot read %s", object_path);
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    struct object o = {.size = (size_t)s.st_size};
    void *bytes = mmap(NULL, o.size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (bytes == MAP_FAILED) {
        return rk__fail_errno(RK_EIO, "cannot map %s", object_path);
    }
    o.bytes = bytes;
    int rc =
        parse(&o) ? check(&o, kernel) : rk__fail(RK_EIO, "%s is no 64-bit ELF object", object_path);
    munmap(bytes, o.size);
    return rc;
}
