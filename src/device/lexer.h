/* lexer.h -- the text of a kernel without what is no code: comments, literals, directives. */
#ifndef RK_DEVICE_LEXER_H
#define RK_DEVICE_LEXER_H

#include <stdbool.h>

enum { RK__LEXER_NESTING = 256 };

typedef struct rk__lexer {
    const char *name, *at;
    int line;
    bool line_start; /* only blanks since the last newline: a # begins a directive */
    int depth;       /* of brackets */
    char open[RK__LEXER_NESTING];
    int open_lines[RK__LEXER_NESTING];
} rk__lexer;

/* All: thread: owner only. blocks: no */

/* Says what is wrong in a line; returns RK_ECOMPILE. */
int rk__lexer_fail(const rk__lexer *lex, int line, const char *what);
/* Over one character. */
void rk__lexer_step(rk__lexer *lex);
/* Over what is no code: 1 something was skipped, 0 not, or RK_ECOMPILE: it does not end. */
int rk__lexer_skip(rk__lexer *lex);
/* Over a character that is no word's; counts brackets. RK_ECOMPILE: they do not match. */
int rk__lexer_bracket(rk__lexer *lex);
bool rk__lexer_is_word(char c);

#endif
