/*
 * variables.c -- which variables of a kernel's text keep a value between messages.
 *
 * On the cpu an object's sections tell a variable from a constant; a GPU's objects do not, so the
 * text is read. Declarations are read word by word, without macros and types: what is const is told
 * by the word const where it counts (behind the last *), by a macro or a typedef of this text that
 * has it, and by what CUDA calls constant. In doubt nothing is found, and whoever asks also looks
 * whether the object has such a variable at all (symbols.c).
 *
 * Threads: any; works on its arguments.
 */
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "device/device.h"
#include "device/lexer.h"

struct reader {
    rk__lexer lex;
    rk__strbuf constants; /* words that mean const: "\nA\nB\n" */
    rk__variable *found;
    size_t count;
    bool no_memory;
};

enum { END = 0, WORD = 'w', LITERAL = '"' };

struct token {
    char kind; /* END, WORD, LITERAL, or the character */
    const char *at;
    size_t size;
    int line;
};

/* Of a declaration, from its first word to its last declarator. */
struct declaration {
    bool local;   /* in a function */
    bool type;    /* typedef, using: declares no variable */
    bool scope;   /* namespace */
    bool outside; /* extern */
    bool kept;    /* static, or what CUDA keeps */
    bool shared;  /* __shared__ */
    bool body;    /* struct, union, enum: braces are its members */
    bool literal; /* "C" */
    bool aside;   /* the next parentheses belong to the word before them */
    bool constant;
    unsigned words; /* that name a type, a variable or a function */
    char last;      /* kind of the token before */
    /* Of the declarator at hand. */
    struct token name;
    bool pointer, constant_here, wrapped, function, value, done;
};

/* ---- tokens --------------------------------------------------------------------------------- */

static bool is(struct token t, const char *word)
{
    return t.kind == WORD && strlen(word) == t.size && memcmp(t.at, word, t.size) == 0;
}

static bool among(struct token t, const char *const *words)
{
    for (; *words; words++) {
        if (is(t, *words)) {
            return true;
        }
    }
    return false;
}

static bool means_const(const struct reader *r, struct token t)
{
    char word[RK_NAME_MAX + 2];
    if (t.kind != WORD || t.size >= RK_NAME_MAX || !r->constants.bytes) {
        return false;
    }
    word[0] = '\n';
    memcpy(word + 1, t.at, t.size);
    word[t.size + 1] = '\n';
    return memmem(r->constants.bytes, r->constants.size, word, t.size + 2) != NULL;
}

static void add_constant(struct reader *r, const char *word, size_t size)
{
    rk__strbuf_add(&r->constants, word, size);
    rk__strbuf_addc(&r->constants, '\n');
}

static struct token read_word(const char *at, int line)
{
    struct token t = {.kind = WORD, .at = at, .line = line};
    while (rk__lexer_is_word(at[t.size])) {
        t.size++;
    }
    return t;
}

/* #define TABLE static const float: from here on TABLE means const. */
static void note_define(struct reader *r)
{
    const char *at = r->lex.at + 1;
    at += strspn(at, " \t");
    if (strncmp(at, "define", 6) != 0) {
        return;
    }
    at += 6;
    at += strspn(at, " \t");
    struct token name = read_word(at, 0);
    bool constant = false;
    for (at += name.size; *at && *at != '\n' && name.size && !constant;) {
        struct token t = read_word(at, 0);
        constant = t.size && means_const(r, t);
        at += t.size ? t.size : *at == '\\' && at[1] ? 2 : 1;
    }
    if (constant) {
        add_constant(r, name.at, name.size);
    }
}

/* The brackets of the text match: it was scanned before. */
static struct token next(struct reader *r)
{
    rk__lexer *lex = &r->lex;
    for (;;) {
        struct token t = {.kind = *lex->at, .at = lex->at, .line = lex->line};
        if (*lex->at == '#' && lex->line_start) {
            note_define(r);
        }
        int skipped = rk__lexer_skip(lex);
        if (t.kind == '\'' || t.kind == '"') {
            t.kind = LITERAL;
            return t;
        }
        if (skipped == 0 && t.kind && !rk__lexer_is_word(t.kind)) {
            skipped = rk__lexer_bracket(lex);
            t.kind = skipped < 0 ? END : t.kind;
            return t;
        }
        if (skipped <= 0) {
            t = read_word(t.at, t.line);
            t.kind = t.size && skipped == 0 ? WORD : END;
            for (size_t i = 0; i < t.size; i++) {
                rk__lexer_step(lex);
            }
            return t;
        }
    }
}

/* Behind an opening bracket: over what is in it. */
static void skip_inside(struct reader *r)
{
    int outer = r->lex.depth - 1;
    while (r->lex.depth > outer && next(r).kind != END) {}
}

/* ---- what a declaration says ---------------------------------------------------------------- */

static void keep(struct reader *r, struct token name)
{
    rk__variable *grown = realloc(r->found, (r->count + 1) * sizeof *grown);
    if (!grown) {
        r->no_memory = true;
        return;
    }
    size_t size = name.size < RK_NAME_MAX ? name.size : RK_NAME_MAX - 1;
    r->found = grown;
    rk__variable *v = &r->found[r->count++];
    memcpy(v->name, name.at, size);
    v->name[size] = '\0';
    v->line = name.line;
}

/* A declarator is read to its end, or to its value. */
static void decide(struct reader *r, struct declaration *d)
{
    bool constant = d->pointer ? d->constant_here : d->constant || d->constant_here;
    bool names = d->name.kind == WORD && d->words >= 2 && !d->function && !d->done;
    d->done = true;
    if (names && d->type && constant) {
        add_constant(r, d->name.at, d->name.size);
    }
    if (!names || d->type || (d->local && !d->kept && !d->shared)) {
        return;
    }
    if (d->shared || (!constant && (!d->outside || d->value))) {
        keep(r, d->name);
    }
}

static void next_declarator(struct declaration *d)
{
    d->name = (struct token){0};
    d->pointer = d->constant_here = d->wrapped = d->function = d->value = d->done = false;
    d->words = d->words > 1 ? 1 : d->words;
}

/* MACRO(...) without a semicolon ends where the next declaration begins. */
static bool ends_macro(const struct declaration *d, struct token t)
{
    static const char *const behind[] = {"const",    "noexcept", "override",      "final",
                                         "asm",      "__asm__",  "__attribute__", "__attribute",
                                         "volatile", NULL};
    return d->last == ')' && d->function && !among(t, behind);
}

static void add_word(struct reader *r, struct declaration *d, struct token t)
{
    static const char *const types[] = {"typedef", "using", "RK_STATE", "friend", NULL};
    static const char *const bodies[] = {"struct", "union", "enum", "class", "RK_STATE", NULL};
    static const char *const kept[] = {"static",        "__device__", "__managed__", "thread_local",
                                       "_Thread_local", "__thread",   NULL};
    static const char *const asides[] = {
        "__attribute__",     "__attribute", "__align__", "alignas",  "_Alignas", "__declspec",
        "__launch_bounds__", "asm",         "__asm__",   "noexcept", "explicit", NULL};
    static const char *const types_of[] = {"typeof",   "__typeof__", "__typeof",
                                           "decltype", "_Atomic",    NULL};
    static const char *const plain[] = {"volatile",        "restrict",     "__restrict__",
                                        "__restrict",      "inline",       "__inline__",
                                        "__inline",        "register",     "__host__",
                                        "__extension__",   "template",     "typename",
                                        "__forceinline__", "__noinline__", "_Noreturn",
                                        "public",          "private",      NULL};
    d->aside = among(t, asides) || among(t, types_of);
    d->type |= among(t, types);
    d->body |= among(t, bodies);
    d->kept |= among(t, kept);
    d->scope |= is(t, "namespace");
    d->outside |= is(t, "extern");
    d->shared |= is(t, "__shared__");
    d->function |= is(t, "operator");
    if (means_const(r, t)) {
        d->constant |= !d->pointer;
        d->constant_here |= d->pointer;
    } else if (!among(t, types) && !among(t, bodies) && !among(t, kept) && !among(t, asides) &&
               !among(t, plain) && !is(t, "namespace") && !is(t, "extern") &&
               !is(t, "__shared__")) {
        d->words++;
        d->name = t;
    }
}

/* `(*name)(...)`: behind the star. */
static void read_pointer(struct reader *r, struct declaration *d)
{
    int outer = r->lex.depth - 1;
    d->wrapped = d->pointer = true;
    d->constant_here = false;
    while (r->lex.depth > outer) {
        struct token t = next(r);
        if (t.kind == END) {
            return;
        }
        if (t.kind == '*') {
            d->constant_here = false;
        } else if (t.kind == '(' || t.kind == '[') {
            d->function |= t.kind == '(';
            skip_inside(r);
        } else if (means_const(r, t)) {
            d->constant_here = true;
        } else if (t.kind == WORD) {
            d->name = t;
            d->words++;
        }
    }
}

static void read_parentheses(struct reader *r, struct declaration *d)
{
    if (d->aside || d->function || d->wrapped) {
        skip_inside(r);
        return;
    }
    int outer = r->lex.depth - 1;
    struct token first = next(r);
    if (first.kind == '*') {
        read_pointer(r, d);
        return;
    }
    d->function = true;
    while (r->lex.depth > outer && first.kind != END) {
        first = next(r);
    }
}

/* ---- declarations and bodies ---------------------------------------------------------------- */

static void read_declaration(struct reader *r, bool local);

/* Behind the brace of a function: static locals, and what CUDA keeps. */
static void read_body(struct reader *r)
{
    static const char *const kept[] = {"static",        "__shared__",   "__device__", "__managed__",
                                       "_Thread_local", "thread_local", "__thread",   NULL};
    int outer = r->lex.depth - 1;
    rk__lexer start = r->lex; /* of the statement: a declaration may say const before static */
    while (r->lex.depth > outer) {
        struct token t = next(r);
        if (t.kind == END) {
            return;
        }
        if (t.kind == '(' || t.kind == '[') {
            skip_inside(r);
        } else if (among(t, kept)) {
            r->lex = start;
            read_declaration(r, true);
            start = r->lex;
        } else if (strchr(";{}:", t.kind)) {
            start = r->lex;
        }
    }
}

/* True: the declaration ends here. */
static bool read_braces(struct reader *r, struct declaration *d)
{
    if (d->scope || (d->outside && d->literal && d->words == 0)) {
        return true; /* what is inside is read like what is outside */
    }
    if (d->body && !d->function) {
        skip_inside(r);
        d->words = 1;
        d->name = (struct token){0};
        return false;
    }
    if (d->function || d->words <= 1) {
        read_body(r);
        return true;
    }
    d->value = true;
    decide(r, d);
    skip_inside(r);
    return false;
}

static bool read_mark(struct reader *r, struct declaration *d, struct token t)
{
    switch (t.kind) {
    case '*':
        d->pointer = true;
        d->constant_here = false;
        return false;
    case '&':
        d->pointer = d->constant_here = true; /* a reference stays what it is */
        return false;
    case '(':
        read_parentheses(r, d);
        return false;
    case '[':
        skip_inside(r);
        return false;
    case '{':
        return read_braces(r, d);
    case '=':
        d->value = true;
        decide(r, d);
        return false;
    case ',':
        decide(r, d);
        next_declarator(d);
        return false;
    case ';':
        decide(r, d);
        return true;
    default:
        d->literal |= t.kind == LITERAL;
        return t.kind == '}' || t.kind == END;
    }
}

/* Inside a value only brackets and its end count. */
static bool is_part_of_value(const struct declaration *d, struct token t)
{
    return d->value && t.kind != END && !strchr(",;([{}", t.kind);
}

static void read_declaration(struct reader *r, bool local)
{
    struct declaration d = {.local = local};
    for (;;) {
        struct token t = next(r);
        bool ends = false;
        if (d.value && t.kind != END && strchr("([{", t.kind)) {
            skip_inside(r);
        } else if (is_part_of_value(&d, t)) {
            continue;
        } else if (t.kind == WORD) {
            if (ends_macro(&d, t)) {
                d = (struct declaration){.local = local};
            }
            add_word(r, &d, t);
        } else {
            ends = read_mark(r, &d, t);
            d.aside = false;
        }
        if (ends) {
            return;
        }
        d.last = t.kind == '(' ? ')' : t.kind;
    }
}

int rk__source_variables(const char *text, int first_line, rk__variable **out, size_t *count)
{
    struct reader r = {.lex = {.name = "", .at = text, .line = first_line, .line_start = true}};
    rk__strbuf_adds(&r.constants, "\nconst\nconstexpr\n__const\n__constant__\n__grid_constant__\n"
                                  "RK_ENTRY_CONST\nRK__IMAGE_CONST\n");
    while (*r.lex.at && !r.no_memory) {
        const char *at = r.lex.at;
        read_declaration(&r, false);
        if (r.lex.at == at) {
            break; /* a text that was not scanned */
        }
    }
    bool failed = r.no_memory || r.constants.failed;
    rk__strbuf_free(&r.constants);
    if (failed) {
        free(r.found);
        return rk__fail(RK_ENOMEM, "out of memory for the variables of a kernel");
    }
    *out = r.found;
    *count = r.count;
    return 0;
}
