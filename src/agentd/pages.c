/* Anonymous mappings that no child inherits. */
#include "pages.h"

#include <sys/mman.h>

void *agent_pages_map(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    (void)madvise(at, size, MADV_DONTFORK);
    return at;
}

void agent_pages_unmap(void *at, size_t size)
{
    if (at)
        (void)munmap(at, size);
}

void agent_pages_forget(void *at, size_t size)
{
    (void)madvise(at, size, MADV_DONTNEED);
}
