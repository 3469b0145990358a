/*
 * symbols.c -- a look into the ELF object of a definition before it is linked; NVRTC's are ELF, too.
 *
 * State belongs to an instance (RK_STATE, or a state schema), so an object that could be written at
 * run time and belongs to the whole file is an error: on a GPU it would be shared by all instances,
 * lost at an image swap, and invisible to the runtime.
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

struct object {
    const unsigned char *bytes;
    size_t size;
    const Elf64_Shdr *sections;
    size_t section_count;
    const Elf64_Shdr *names;
    uint16_t machine;
};

/* Of NVIDIA's objects: the types of symbols that are data, and of sections that are all zero. */
enum { MACHINE_CUDA = 190, STT_CUDA_OBJECT = 13, SHT_CUDA_GLOBAL = SHT_LOPROC + 7 };

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
    o->machine = header->e_machine;
    o->names = &o->sections[header->e_shstrndx];
    for (size_t i = 0; i < o->section_count; i++) {
        const Elf64_Shdr *section = &o->sections[i];
        bool foreign = o->machine == MACHINE_CUDA && section->sh_type >= SHT_LOPROC;
        if (section->sh_type != SHT_NOBITS && !foreign &&
            !inside(o, section->sh_offset, section->sh_size)) {
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

/* Where a walk over the symbols is; all zero before the first. */
struct walk {
    size_t section, at;
    const Elf64_Sym *symbol;
    const char *name;
};

static bool next_symbol(const struct object *o, struct walk *w)
{
    for (; w->section < o->section_count; w->section++, w->at = 0) {
        const Elf64_Shdr *table = &o->sections[w->section];
        if (table->sh_type == SHT_SYMTAB && table->sh_link < o->section_count &&
            table->sh_offset % 8 == 0 && w->at < table->sh_size / sizeof *w->symbol) {
            w->symbol = (const Elf64_Sym *)(o->bytes + table->sh_offset) + w->at++;
            w->name = string_at(o, &o->sections[table->sh_link], w->symbol->st_name);
            return true;
        }
    }
    return false;
}

static bool is_data(const struct object *o, const Elf64_Sym *symbol)
{
    int type = ELF64_ST_TYPE(symbol->st_info);
    return type == STT_OBJECT || type == STT_TLS ||
           (type == STT_CUDA_OBJECT && o->machine == MACHINE_CUDA);
}

/* Constants with addresses in them are in .data.rel.ro: written once, by the loader. Names with two
 * underscores are the compiler's (sanitizers add some). */
static bool is_mutable(const struct object *o, const Elf64_Sym *symbol, const char *name)
{
    if (!*name || strncmp(name, "__", 2) == 0) {
        return false;
    }
    if (symbol->st_shndx == SHN_COMMON) {
        return true;
    }
    if (!is_data(o, symbol) || symbol->st_shndx >= o->section_count) {
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
    for (struct walk w = {0}; next_symbol(o, &w);) {
        if (is_mutable(o, w.symbol, w.name)) {
            describe(out, kernel, w.name);
        }
    }
}

/* Frees `found`, the list of what was found. */
static int refuse(rk__strbuf *found, const rk__kernel *kernel)
{
    int rc = 0;
    if (found->size) {
        rc = rk__fail(RK_ECOMPILE,
                      "kernel \"%s\" has variables that keep a value between messages outside its "
                      "state: %s; put them into RK_STATE or a state schema, or make them const",
                      kernel->base.name, found->bytes);
    }
    rk__strbuf_free(found);
    return rc;
}

static int check(const struct object *o, const rk__kernel *kernel)
{
    rk__strbuf found = RK__STRBUF_INIT;
    find_mutable(o, kernel, &found);
    return refuse(&found, kernel);
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

/* ---- objects in memory ---------------------------------------------------------------------- */

static bool parse_bytes(const void *bytes, size_t size, struct object *out)
{
    *out = (struct object){.bytes = bytes, .size = size};
    return parse(out);
}

/* A static local has a name around its own; a variable that the compiler did without has none. */
static bool has_data(const struct object *o, const char *name)
{
    for (struct walk w = {0}; next_symbol(o, &w);) {
        if (is_data(o, w.symbol) && strstr(w.name, name)) {
            return true;
        }
    }
    return false;
}

int rk__symbols_check_text(const void *bytes, size_t size, const rk__kernel *kernel)
{
    struct object o;
    rk__variable *variables = NULL;
    size_t count = 0;
    rk__strbuf found = RK__STRBUF_INIT;
    int rc = rk__source_variables(kernel->text, kernel->source_line, &variables, &count);
    if (rc < 0) {
        return rk__fail_prefix(rc, "kernel \"%s\"", kernel->base.name);
    }
    bool readable = parse_bytes(bytes, size, &o);
    for (size_t i = 0; readable && i < count; i++) {
        if (has_data(&o, variables[i].name)) {
            rk__strbuf_addf(&found, "%s%s (%s:%d)", found.size ? ", " : "", variables[i].name,
                            kernel->source_name, variables[i].line);
        }
    }
    free(variables);
    return readable ? refuse(&found, kernel)
                    : rk__fail(RK_EIO, "kernel \"%s\": what was compiled is no 64-bit ELF object",
                               kernel->base.name);
}

/* NVIDIA's objects say which of what is missing are functions; the others do not. */
bool rk__symbols_calls_out(const void *bytes, size_t size)
{
    struct object o;
    bool readable = parse_bytes(bytes, size, &o);
    int type = readable && o.machine == MACHINE_CUDA ? STT_FUNC : STT_NOTYPE;
    for (struct walk w = {0}; readable && next_symbol(&o, &w);) {
        if (w.symbol->st_shndx == SHN_UNDEF && ELF64_ST_TYPE(w.symbol->st_info) == type &&
            ELF64_ST_BIND(w.symbol->st_info) == STB_GLOBAL) {
            return true;
        }
    }
    return false;
}

/* The bytes of a symbol in an object: its value counts from the start of its section. */
static bool copy_symbol(const struct object *o, const Elf64_Sym *symbol, void *out, size_t size)
{
    if (symbol->st_shndx >= o->section_count || symbol->st_size != size) {
        return false;
    }
    const Elf64_Shdr *section = &o->sections[symbol->st_shndx];
    if (symbol->st_value > section->sh_size || size > section->sh_size - symbol->st_value) {
        return false;
    }
    if (section->sh_type == SHT_NOBITS ||
        (o->machine == MACHINE_CUDA && section->sh_type == SHT_CUDA_GLOBAL)) {
        memset(out, 0, size);
        return true;
    }
    if (!inside(o, section->sh_offset, section->sh_size)) {
        return false;
    }
    memcpy(out, o->bytes + section->sh_offset + symbol->st_value, size);
    return true;
}

int rk__symbols_read(const void *bytes, size_t size, const char *name, void *out, size_t out_size)
{
    struct object o;
    bool readable = parse_bytes(bytes, size, &o);
    for (struct walk w = {0}; readable && next_symbol(&o, &w);) {
        if (strcmp(w.name, name) == 0 && w.symbol->st_shndx != SHN_UNDEF &&
            copy_symbol(&o, w.symbol, out, out_size)) {
            return 0;
        }
    }
    return rk__fail(RK_ENOENT, "the object has no %s of %zu bytes", name, out_size);
}
