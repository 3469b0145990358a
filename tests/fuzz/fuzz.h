/* fuzz.h -- what a fuzz target gives: the libFuzzer entry points, and inputs to start from. */
#ifndef RK_TESTS_FUZZ_H
#define RK_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Gives the i-th starting input (malloc'ed), returns how many there are; past the end it gives
 * nothing. */
size_t fuzz_seed(size_t i, void **bytes, size_t *size);

#endif
