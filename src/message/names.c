/*
 * names.c -- which names a message type and its fields may have.
 *
 * A name becomes a C identifier in the generated header, a key in MessagePack and an index in Lua,
 * so it must be free in all three. Any thread may enter; only constant tables are read.
 */
#include <string.h>
#include "message/schema.h"

static const char *const keywords[] = {"alignas",
                                       "alignof",
                                       "and",
                                       "and_eq",
                                       "asm",
                                       "auto",
                                       "bitand",
                                       "bitor",
                                       "bool",
                                       "break",
                                       "case",
                                       "catch",
                                       "char",
                                       "char16_t",
                                       "char32_t",
                                       "char8_t",
                                       "class",
                                       "co_await",
                                       "co_return",
                                       "co_yield",
                                       "compl",
                                       "concept",
                                       "const",
                                       "const_cast",
                                       "consteval",
                                       "constexpr",
                                       "constinit",
                                       "continue",
                                       "decltype",
                                       "default",
                                       "delete",
                                       "do",
                                       "double",
                                       "dynamic_cast",
                                       "else",
                                       "enum",
                                       "explicit",
                                       "export",
                                       "extern",
                                       "false",
                                       "float",
                                       "for",
                                       "friend",
                                       "goto",
                                       "if",
                                       "inline",
                                       "int",
                                       "long",
                                       "mutable",
                                       "namespace",
                                       "new",
                                       "noexcept",
                                       "not",
                                       "not_eq",
                                       "nullptr",
                                       "operator",
                                       "or",
                                       "or_eq",
                                       "private",
                                       "protected",
                                       "public",
                                       "register",
                                       "reinterpret_cast",
                                       "requires",
                                       "restrict",
                                       "return",
                                       "short",
                                       "signed",
                                       "sizeof",
                                       "static",
                                       "static_assert",
                                       "static_cast",
                                       "struct",
                                       "switch",
                                       "template",
                                       "this",
                                       "thread_local",
                                       "throw",
                                       "true",
                                       "try",
                                       "typedef",
                                       "typeid",
                                       "typename",
                                       "typeof",
                                       "typeof_unqual",
                                       "union",
                                       "unsigned",
                                       "using",
                                       "virtual",
                                       "void",
                                       "volatile",
                                       "wchar_t",
                                       "while",
                                       "xor",
                                       "xor_eq",
                                       "_Alignas",
                                       "_Alignof",
                                       "_Atomic",
                                       "_BitInt",
                                       "_Bool",
                                       "_Complex",
                                       "_Decimal128",
                                       "_Decimal32",
                                       "_Decimal64",
                                       "_Generic",
                                       "_Imaginary",
                                       "_Noreturn",
                                       "_Static_assert",
                                       "_Thread_local",
                                       NULL};

/* Macros that compilers in GNU mode and the usual headers define without being asked. */
static const char *const macros[] = {"NULL",  "linux",  "unix",     "i386",
                                     "errno", "assert", "offsetof", NULL};

static const char *const envelope[] = {"message_id", "correlation_id", "priority", "from",
                                       "sent",       "type",           NULL};
static const char *const methods[] = {"table", "pack", NULL};

/* Type names that every C translation unit of a kernel already has. */
static const char *const c_types[] = {"int8_t",   "int16_t",  "int32_t",   "int64_t",  "uint8_t",
                                      "uint16_t", "uint32_t", "uint64_t",  "intptr_t", "uintptr_t",
                                      "size_t",   "ssize_t",  "ptrdiff_t", "dim3",     "half",
                                      "main",     NULL};
static const char *const vector_bases[] = {"char",  "uchar",  "short", "ushort",   "int",
                                           "uint",  "long",   "ulong", "longlong", "ulonglong",
                                           "float", "double", NULL};
static const char *const field_words[] = {"any", "buffer", NULL};

static bool is_one_of(const char *name, const char *const *words)
{
    for (; *words; words++) {
        if (strcmp(name, *words) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_identifier(const char *name)
{
    if (!is_letter(*name)) {
        return false;
    }
    for (; *name; name++) {
        if (!is_letter(*name) && !(*name >= '0' && *name <= '9')) {
            return false;
        }
    }
    return true;
}

static const char *common_fault(const char *name)
{
    if (!name || !*name) {
        return "is missing";
    }
    if (strlen(name) >= RK_NAME_MAX) {
        return "is too long: at most 63 bytes";
    }
    if (!is_identifier(name)) {
        return "is not an identifier: letters, digits and _, with no digit first";
    }
    if (is_one_of(name, keywords)) {
        return "is a keyword of C or C++";
    }
    if (is_one_of(name, macros)) {
        return "is a macro of the C compiler or its headers";
    }
    if (!strncmp(name, "__", 2) || !strncmp(name, "rk_", 3) || !strncmp(name, "RK_", 3)) {
        return "starts with __, rk_ or RK_, which belong to the runtime";
    }
    return NULL;
}

/* CUDA has float4, uint2 and so on built in. */
static bool is_vector_type(const char *name)
{
    size_t size = strlen(name);
    if (size < 2 || name[size - 1] < '1' || name[size - 1] > '4') {
        return false;
    }
    for (const char *const *base = vector_bases; *base; base++) {
        if (strlen(*base) == size - 1 && strncmp(name, *base, size - 1) == 0) {
            return true;
        }
    }
    return false;
}

const char *rk__type_name_fault(const char *name)
{
    const char *fault = common_fault(name);
    if (fault) {
        return fault;
    }
    for (int kind = RK__BOOL; kind <= RK__BYTES; kind++) {
        if (strcmp(name, rk__kind_name((rk__kind)kind)) == 0) {
            return "is that of a field type";
        }
    }
    if (is_one_of(name, field_words)) {
        return "is that of a field type";
    }
    if (is_one_of(name, c_types) || is_vector_type(name)) {
        return "is that of a type which C or CUDA already has";
    }
    return NULL;
}

const char *rk__field_name_fault(const char *name)
{
    const char *fault = common_fault(name);
    if (fault) {
        return fault;
    }
    if (is_one_of(name, envelope)) {
        return "is reserved: the envelope of every message has message_id, correlation_id, "
               "priority, from, sent and type";
    }
    if (is_one_of(name, methods)) {
        return "is reserved: messages have the methods table and pack";
    }
    size_t size = strlen(name);
    if (size >= 6 && strcmp(name + size - 6, "_count") == 0) {
        return "is reserved: names that end in _count belong to the counts of arrays";
    }
    return NULL;
}
