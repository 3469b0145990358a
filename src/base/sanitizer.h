/* sanitizer.h -- what ASan and TSan must be told about pools and CK's inline assembly. */
#ifndef RK_BASE_SANITIZER_H
#define RK_BASE_SANITIZER_H

#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
#define RK__TSAN_RELEASE(address) __tsan_release((void *)(address))
/* Around a CK call that writes into the object just released, as a stack push does to the link. */
#define RK__TSAN_IGNORE_BEGIN()   AnnotateIgnoreWritesBegin(__FILE__, __LINE__)
#define RK__TSAN_IGNORE_END()     AnnotateIgnoreWritesEnd(__FILE__, __LINE__)
#define RK__TSAN_ACQUIRE(address) __tsan_acquire((void *)(address))
#else
#define RK__TSAN_RELEASE(address) ((void)(address))
#define RK__TSAN_IGNORE_BEGIN()   ((void)0)
#define RK__TSAN_IGNORE_END()     ((void)0)
#define RK__TSAN_ACQUIRE(address) ((void)(address))
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define RK__ASAN_POISON(address, size)   __asan_poison_memory_region((address), (size))
#define RK__ASAN_UNPOISON(address, size) __asan_unpoison_memory_region((address), (size))
#else
#define RK__ASAN_POISON(address, size)   ((void)(address), (void)(size))
#define RK__ASAN_UNPOISON(address, size) ((void)(address), (void)(size))
#endif

#endif
