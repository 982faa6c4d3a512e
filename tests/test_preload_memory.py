"""The preload library as the C library sees it: what `malloc`, `mmap`, `fork` and their families promise, called one by one.

Every test is a Python program that calls C through ctypes, with the library preloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
from test_preload import library, limited, python

#: C, with types: every number is as wide as in C, and errors are exceptions.
C = """
import errno, mmap
lib = ctypes.CDLL(None, use_errno=True)
size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
def declare(name, result, *arguments):
    function = getattr(lib, name)
    function.restype, function.argtypes = result, arguments
    return function
malloc = declare("malloc", pointer, size)
calloc = declare("calloc", pointer, size, size)
realloc = declare("realloc", pointer, pointer, size)
reallocarray = declare("reallocarray", pointer, pointer, size, size)
free = declare("free", None, pointer)
usable = declare("malloc_usable_size", size, pointer)
memalign = declare("memalign", pointer, size, size)
aligned_alloc = declare("aligned_alloc", pointer, size, size)
valloc = declare("valloc", pointer, size)
posix_memalign = declare("posix_memalign", number, ctypes.POINTER(pointer), size, size)
c_mmap = declare("mmap", pointer, pointer, size, number, number, number, ctypes.c_long)
munmap = declare("munmap", number, pointer, size)
c_mremap = declare("mremap", pointer, pointer, size, size, number, pointer)
mprotect = declare("mprotect", number, pointer, size, number)
madvise = declare("madvise", number, pointer, size, number)
NONE, READ, WRITE, EXECUTE = 0, 1, 2, 4
PRIVATE, FIXED, ANONYMOUS, NORESERVE, FIXED_NOREPLACE = 2, 0x10, 0x20, 0x4000, 0x100000
DONTNEED, FREE, HUGEPAGE, REMOVE = 4, 8, 14, 9
MAYMOVE, REMAP_FIXED, DONTUNMAP = 1, 2, 4
FAILED = 2**64 - 1
def map(length, protection=READ | WRITE, flags=0, address=None):
    at = c_mmap(address, length, protection, PRIVATE | ANONYMOUS | flags, -1, 0)
    assert at != FAILED, errno.errorcode[ctypes.get_errno()]
    return at
def mremap(address, old, new, flags, wanted=None):
    return c_mremap(address, old, new, flags, wanted)
def put(address, length, byte):
    ctypes.memset(address, byte, length)
def holds(address, length, byte):
    # In pieces too small for the arena.
    step = 60_000
    return all(ctypes.string_at(address + at, min(step, length - at)) == bytes([byte]) * min(step, length - at) for at in range(0, length, step))
def ok(child):
    assert os.waitpid(child, 0)[1] == 0
def in_child(body):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if body() is not False else 1
        finally:
            os._exit(status)
    return child
def dies(body):
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        body()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
"""


def run(code: str, **options: object) -> str:
    """Runs a program that calls C."""
    return python(C + textwrap.dedent(code), **options)  # type: ignore[arg-type]


def test_the_malloc_family() -> None:
    run("""
    for length in (1, 1000, 65535, 65536, 65537, 100_000, MIB, 9 * MIB, 40 * MIB + 1):
        block = malloc(length)
        assert usable(block) >= length and block % 16 == 0
        put(block, length, 7)
        zeros = calloc(1, length)
        assert holds(zeros, length, 0)
        put(zeros, length, 1)
        free(zeros)
        again = calloc(length, 1)
        assert holds(again, length, 0) and holds(block, length, 7)
        free(again)
        free(block)
    assert calloc(2**40, 2**40) is None and ctypes.get_errno() == errno.ENOMEM
    assert reallocarray(None, 2**40, 2**40) is None and ctypes.get_errno() == errno.ENOMEM
    assert malloc(2**62) is None and calloc(1, 2**62) is None
    free(None)
    assert usable(None) == 0
    free(malloc(0))
    assert arena().allocations > 10 and arena().live < 4 * MIB
    """)


def test_realloc_keeps_bytes_whatever_it_crosses() -> None:
    run("""
    import random
    random.seed(1)
    sizes = [10, 60_000, 65_535, 65_536, 66_000, 131_072, MIB, 3 * MIB + 5, 20 * MIB]
    block, length = malloc(100), 100
    put(block, length, 3)
    for step in range(300):
        new = random.choice(sizes)
        block = realloc(block, new)
        assert holds(block, min(length, new), 3), (step, length, new)
        put(block, new, 3)
        length = new
    assert realloc(block, 2**62) is None and holds(block, length, 3)
    # Size 0 frees.
    realloc(block, 0)
    assert arena().live < 4 * MIB
    fresh = realloc(None, 5 * MIB)
    put(fresh, 5 * MIB, 1)
    free(fresh)
    block = reallocarray(None, 1000, 1000)
    put(block, 1_000_000, 9)
    block = reallocarray(block, 2000, 1000)
    assert holds(block, 1_000_000, 9)
    free(block)
    """)


def test_alignment() -> None:
    run("""
    kept = []
    for power in range(4, 27):
        for length in (100, 70_000, 3 * MIB):
            into = pointer()
            assert posix_memalign(ctypes.byref(into), 1 << power, length) == 0
            blocks = [into.value, memalign(1 << power, length), aligned_alloc(1 << power, length)]
            for block in blocks:
                assert block % (1 << power) == 0
                ctypes.memset(block, power, min(length, 70_000))
                kept.append((block, min(length, 70_000), power))
    assert valloc(100_000) % 4096 == 0
    into = pointer(5)
    assert posix_memalign(ctypes.byref(into), 3, 100_000) == errno.EINVAL and into.value == 5
    assert posix_memalign(ctypes.byref(into), 4096, 2**62) == errno.ENOMEM and into.value == 5
    assert posix_memalign(ctypes.byref(into), 2**40, MIB) in (0, errno.ENOMEM)
    for block, length, byte in kept:
        assert holds(block, length, byte)
        free(block)
    """)


@pytest.mark.parametrize("what", ["twice", "inside"])
def test_a_wrong_free_ends_the_process(what: str) -> None:
    wrong = {"twice": "free(block), free(block)", "inside": "free(block + 64 * 1024)"}[what]
    run(f"""
    def wrong():
        block = malloc(MIB)
        {wrong}
    assert dies(wrong) == signal.SIGABRT
    """)


def test_parts_of_maps() -> None:
    run("""
    at = map(16 * MIB)
    assert found(at, 16 * MIB) == 1 and holds(at, 4096, 0)
    put(at, 16 * MIB, 5)
    # The middle, the start, the end; pages that are not units.
    assert munmap(at + 4 * MIB + 4096, 2 * MIB) == 0
    assert munmap(at, 8192) == 0
    assert munmap(at + 15 * MIB, MIB) == 0
    assert holds(at + 8192, 4 * MIB + 4096 - 8192, 5) and holds(at + 6 * MIB + 4096, 9 * MIB - 4096, 5)
    # What is unmapped twice is no error, and what was never mapped neither.
    assert munmap(at, 8192) == 0
    assert munmap(at, 16 * MIB) == 0
    assert munmap(at + 1, 4096) == -1 and ctypes.get_errno() == errno.EINVAL
    assert arena().live < 4 * MIB
    again = map(16 * MIB)
    assert holds(again, 16 * MIB, 0)
    # One call over several maps.
    first = map(4 * MIB)
    second = map(4 * MIB)
    low, high = min(first, second), max(first, second)
    if high - low <= 8 * MIB:
        assert munmap(low, high + 4 * MIB - low) == 0
    """)


def test_advice() -> None:
    run("""
    at = map(8 * MIB)
    put(at, 8 * MIB, 5)
    assert madvise(at + 4096, 8192, DONTNEED) == 0
    assert holds(at, 4096, 5) and holds(at + 4096, 8192, 0) and holds(at + 12288, 4096, 5)
    assert madvise(at, MIB, FREE) == 0
    assert ctypes.string_at(at, 4096) in (bytes([5]) * 4096, bytes(4096))
    assert madvise(at, 8 * MIB, HUGEPAGE) == 0
    # Closed pages can be emptied too, and stay closed.
    assert mprotect(at + 2 * MIB, MIB, NONE) == 0 and madvise(at + 2 * MIB, MIB, DONTNEED) == 0
    assert dies(lambda: ctypes.string_at(at + 2 * MIB, 1)) == signal.SIGSEGV
    assert mprotect(at + 2 * MIB, MIB, READ | WRITE) == 0 and holds(at + 2 * MIB, MIB, 0) and holds(at + 3 * MIB, MIB, 5)
    # The same once a fork has frozen the pages, in both processes.
    def body():
        put(at + 3 * MIB, 4096, 6)
        assert madvise(at + 3 * MIB, MIB, DONTNEED) == 0 and holds(at + 3 * MIB, MIB, 0) and holds(at + 4 * MIB, MIB, 5)
    ok(in_child(body))
    assert holds(at + 3 * MIB, MIB, 5)
    assert mprotect(at + 5 * MIB, MIB, READ) == 0 and madvise(at + 4 * MIB, 2 * MIB, DONTNEED) == 0
    assert holds(at + 4 * MIB, 2 * MIB, 0) and holds(at + 6 * MIB, 2 * MIB, 5)
    assert dies(lambda: put(at + 5 * MIB, 1, 1)) == signal.SIGSEGV
    assert madvise(at, 8 * MIB, 9999) == -1 and ctypes.get_errno() == errno.EINVAL
    assert munmap(at, 8 * MIB) == 0
    """)


def test_protections_of_both_kinds_of_window() -> None:
    run("""
    at = map(4 * MIB)
    put(at, 4 * MIB, 5)
    for _ in range(2):
        assert mprotect(at + MIB, MIB, READ) == 0
        assert dies(lambda: put(at + MIB, 1, 1)) == signal.SIGSEGV
        assert holds(at, 4 * MIB, 5)
        assert mprotect(at + MIB, MIB, READ | WRITE) == 0
        put(at + MIB, MIB, 5)
        ok(in_child(lambda: holds(at, 4 * MIB, 5)))
    # Code, as compilers write it: write, then execute. (mov eax, 42; ret)
    code = b"\\xb8\\x2a\\x00\\x00\\x00\\xc3"
    if os.uname().machine == "x86_64":
        ctypes.memmove(at, code, len(code))
        assert mprotect(at, 4096, READ | EXECUTE) == 0 and ctypes.CFUNCTYPE(number)(at)() == 42
        ok(in_child(lambda: ctypes.CFUNCTYPE(number)(at)() == 42))
    munmap(at, 4 * MIB)
    # What was closed when it was given back is open when it is given out again.
    at = map(4 * MIB, NONE)
    munmap(at, 4 * MIB)
    for _ in range(4):
        put(map(4 * MIB), 4 * MIB, 1)
        put(malloc(4 * MIB), 4 * MIB, 1)
    """)


def test_moving_maps() -> None:
    run("""
    at = map(4 * MIB)
    put(at, 4 * MIB, 5)
    at = mremap(at, 4 * MIB, 40 * MIB, MAYMOVE)
    assert at != FAILED and holds(at, 4 * MIB, 5) and holds(at + 4 * MIB, 36 * MIB, 0)
    assert mremap(at, 40 * MIB, 2 * MIB, 0) == at and holds(at, 2 * MIB, 5)
    assert mremap(at, 2 * MIB, 2**45, MAYMOVE) == FAILED and ctypes.get_errno() == errno.ENOMEM and holds(at, 2 * MIB, 5)
    # To an address: of the kernel's, of the arena's, and back.
    elsewhere = map(4 * MIB, flags=0x20000)
    assert found(elsewhere, 1) == 0, "MAP_STACK is the kernel's"
    assert mremap(at, 2 * MIB, 4 * MIB, MAYMOVE | REMAP_FIXED, elsewhere) == elsewhere
    assert holds(elsewhere, 2 * MIB, 5) and holds(elsewhere + 2 * MIB, 2 * MIB, 0)
    reserved = map(64 * MIB, NONE)
    assert mremap(elsewhere, 2 * MIB, 2 * MIB, MAYMOVE | REMAP_FIXED, reserved + 8 * MIB) == reserved + 8 * MIB
    assert holds(reserved + 8 * MIB, 2 * MIB, 5) and found(reserved + 8 * MIB, 4096) == 2, "the kernel's pages stand over the file's"
    inside = map(4 * MIB)
    put(inside, 4 * MIB, 6)
    assert mremap(inside, 4 * MIB, 4 * MIB, MAYMOVE | REMAP_FIXED, reserved + 16 * MIB) == reserved + 16 * MIB
    assert holds(reserved + 16 * MIB, 4 * MIB, 6)
    assert mremap(reserved + 16 * MIB, 4 * MIB, 4 * MIB, MAYMOVE | REMAP_FIXED, reserved + 18 * MIB) == FAILED, "they overlap"
    # The old pages stay, and are empty.
    old = map(4 * MIB)
    put(old, 4 * MIB, 7)
    new = mremap(old, 4 * MIB, 4 * MIB, MAYMOVE | DONTUNMAP)
    assert new not in (FAILED, old) and holds(new, 4 * MIB, 7) and holds(old, 4 * MIB, 0)
    ok(in_child(lambda: holds(new, 4 * MIB, 7) and holds(reserved + 16 * MIB, 4 * MIB, 6) and holds(reserved + 8 * MIB, 2 * MIB, 5)))
    assert munmap(reserved, 64 * MIB) == 0 and munmap(old, 4 * MIB) == 0
    for _ in range(20):
        put(map(8 * MIB), 8 * MIB, 1)
    assert holds(new, 4 * MIB, 7)
    """)


def test_maps_over_maps() -> None:
    run("""
    import tempfile
    at = map(16 * MIB)
    put(at, 16 * MIB, 5)
    with tempfile.TemporaryFile() as file:
        file.write(b"F" * MIB)
        file.flush()
        assert c_mmap(at + 4 * MIB, MIB, READ | WRITE, PRIVATE | FIXED, file.fileno(), 0) == at + 4 * MIB
        assert c_mmap(at + 8 * MIB, MIB, READ | WRITE, 1 | FIXED, file.fileno(), 0) == at + 8 * MIB
    put(at + 4 * MIB, MIB, ord("F"))
    assert map(MIB, flags=FIXED, address=at + MIB) == at + MIB and holds(at + MIB, MIB, 0) and holds(at, MIB, 5)
    assert c_mmap(at, MIB, READ, PRIVATE | ANONYMOUS | FIXED_NOREPLACE, -1, 0) == FAILED and ctypes.get_errno() == errno.EEXIST
    assert holds(at + 4 * MIB, MIB, ord("F")) and holds(at + 5 * MIB, 3 * MIB, 5)
    put(at + 8 * MIB, 1, ord("G"))
    ok(in_child(lambda: ctypes.string_at(at + 8 * MIB, 2) == b"GF" and holds(at + 4 * MIB, MIB, ord("F")) and put(at + 8 * MIB, 1, ord("H"))))
    assert holds(at + 8 * MIB, 1, ord("H")), "a shared file stays shared"
    # To unmap a file does not empty it.
    at = map(4 * MIB)
    with tempfile.TemporaryFile() as file:
        file.write(b"F" * 16384)
        file.flush()
        assert c_mmap(at + 4096, 16384, READ | WRITE, 1 | FIXED, file.fileno(), 0) == at + 4096
        assert madvise(at, 4 * MIB, DONTNEED) == 0 and holds(at + 4096, 16384, ord("F")) and holds(at + 20480, MIB, 0)
        assert munmap(at, 4096 + 8192) == 0 and munmap(at + 12288, 4 * MIB - 12288) == 0
        assert os.pread(file.fileno(), 16384, 0) == b"F" * 16384
    at = map(16 * MIB)
    # Over a block of malloc, and over free addresses of ours.
    assert munmap(at, 16 * MIB) == 0
    fresh = map(16 * MIB)
    assert holds(fresh, 16 * MIB, 0)
    assert munmap(fresh, 16 * MIB) == 0
    assert map(2 * MIB, flags=FIXED, address=at) == at
    put(at, 2 * MIB, 9)
    blocks = [malloc(3 * MIB) for _ in range(20)]
    [put(block, 3 * MIB, 1) for block in blocks]
    assert holds(at, 2 * MIB, 9)
    """)


def test_huge_reservations() -> None:
    run("""
    # As JVMs, jemalloc and WebAssembly make them: addresses first, memory by and by.
    reserved = map(64 << 30, NONE, NORESERVE)
    assert map(1 << 40, NONE, NORESERVE) != reserved
    for step in range(8):
        assert mprotect(reserved + step * (7 << 30), 4 * MIB, READ | WRITE) == 0
        put(reserved + step * (7 << 30), 4 * MIB, step + 1)
    assert map(4 * MIB, flags=FIXED | NORESERVE, address=reserved + (1 << 30)) == reserved + (1 << 30)
    put(reserved + (1 << 30), 4 * MIB, 77)
    def body():
        put(reserved, MIB, 99)
        return all(holds(reserved + step * (7 << 30), 4 * MIB, step + 1) for step in range(1, 8)) and holds(reserved + (1 << 30), 4 * MIB, 77)
    ok(in_child(body))
    assert holds(reserved, 4 * MIB, 1)
    assert map(4 * MIB, NONE, FIXED | NORESERVE, reserved) == reserved
    assert dies(lambda: ctypes.string_at(reserved, 1)) == signal.SIGSEGV
    assert munmap(reserved, 64 << 30) == 0
    assert arena().held < 200 * MIB
    """, FOREBAY_ARENA_LIMIT=str(512 << 20))


def test_a_reservation_is_no_memory_for_a_fork_either() -> None:
    import resource

    run("""
    reserved = map(8 << 30, NONE, NORESERVE)
    mprotect(reserved, MIB, READ | WRITE)
    put(reserved, MIB, 1)
    ok(in_child(lambda: holds(reserved, MIB, 1)))
    """, before=limited(resource.RLIMIT_DATA, 1 << 30))


def test_children_free_what_parents_made() -> None:
    run("""
    blocks = [malloc(MIB) for _ in range(50)]
    [put(block, MIB, number) for number, block in enumerate(blocks)]
    at = map(8 * MIB)
    put(at, 8 * MIB, 1)
    def body():
        for number, block in enumerate(blocks):
            grown = realloc(block, 2 * MIB)
            assert holds(grown, MIB, number)
            put(grown, 2 * MIB, 200)
            free(grown)
        assert munmap(at, 8 * MIB) == 0
        return holds(calloc(1, 40 * MIB), 40 * MIB, 0)
    children = [in_child(body) for _ in range(3)]
    [free(block) for block in blocks[::2]]
    [ok(child) for child in children]
    assert all(holds(block, MIB, number) for number, block in list(enumerate(blocks))[1::2]) and holds(at, 8 * MIB, 1)
    """)


def test_a_storm_of_threads_and_forks() -> None:
    run("""
    stop, wrong = threading.Event(), []
    # Calls of C run without Python's lock: the threads are really at it together.
    def storm(seed):
        random = seed
        kept = []
        while not stop.is_set():
            random = (random * 6364136223846793005 + 1442695040888963407) % 2**64
            length = 65_536 + (random >> 33) % (3 * MIB)
            kept.append((malloc(length), length))
            put(kept[-1][0], 4096, seed)
            put(kept[-1][0] + length - 4096, 4096, seed)
            if len(kept) > 6:
                block, length = kept.pop(random % 6)
                if not holds(block, 4096, seed) or not holds(block + length - 4096, 4096, seed):
                    wrong.append(seed)
                free(block)
    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(1, 9)]
    [thread.start() for thread in threads]
    children = []
    for number in range(30):
        mine = malloc(MIB)
        put(mine, MIB, number)
        def body():
            more = [malloc(200_000) for _ in range(20)]
            [put(block, 200_000, 255) for block in more]
            return holds(mine, MIB, number)
        children.append(in_child(body))
        put(mine, MIB, 111)
        free(mine)
    [ok(child) for child in children]
    stop.set()
    [thread.join() for thread in threads]
    assert not wrong and arena().freezes >= 5
    """)


def test_forks_from_a_thread_and_by_other_doors() -> None:
    run("""
    data = malloc(4 * MIB)
    put(data, 4 * MIB, 1)
    def thread():
        ok(in_child(lambda: (put(data, MIB, 2), holds(data, MIB, 2))[1]))
    started = threading.Thread(target=thread)
    started.start()
    started.join()
    assert holds(data, 4 * MIB, 1)
    # forkpty calls fork inside of libc; _Fork calls no handlers; clone calls nothing at all.
    child, terminal = os.forkpty()
    if child == 0:
        put(data, MIB, 3)
        os._exit(0)
    ok(child)
    assert holds(data, 4 * MIB, 1)
    fork = getattr(lib, "_Fork", None)
    if fork:
        child = fork()
        if child == 0:
            put(data, MIB, 4)
            os._exit(0)
        ok(child)
    assert holds(data, 4 * MIB, 1)
    work = ctypes.CFUNCTYPE(number, pointer)(lambda argument: put(argument, MIB, 5) or 7 * holds(malloc(MIB), 0, 0))
    stack = bytearray(256 * 1024)
    top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + len(stack) - 64
    clone = declare("clone", number, ctypes.CFUNCTYPE(number, pointer), pointer, number, pointer)
    child = clone(work, top, signal.SIGCHLD, data)
    assert child > 0 and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert holds(data, 4 * MIB, 1)
    # vfork and posix_spawn share our memory until they start a program.
    assert os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], os.environ), 0)[1] == 3 << 8
    assert os.system("exit 4") == 4 << 8 and os.popen("echo hi").read() == "hi\\n"
    assert holds(data, 4 * MIB, 1)
    """)


def test_a_child_that_no_handler_knows_of_cannot_write_into_its_parent() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the number of the system call is that of x86-64")
    run("""
    data = malloc(4 * MIB)
    put(data, 4 * MIB, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    child = lib.syscall(57)
    if child == 0:
        ctypes.memset(data, 2, MIB)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV
    assert holds(data, 4 * MIB, 1)
    """)


HANDLER = """
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
int forked, refused, wrong;
static void handler(int number) {
    int before = errno, status = -1;
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child > 0) {
        forked++;
        waitpid(child, &status, 0);
        wrong += status != 0;
    } else {
        refused++;
    }
    errno = before;
}
void install(int number) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(number, &action, 0);
}
"""


def test_a_fork_in_a_signal_handler(tmp_path: Path) -> None:
    source, compiled = tmp_path / "handler.c", tmp_path / "handler.so"
    source.write_text(HANDLER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", compiled, source], check=True)
    run(f"""
    # It interrupts the allocator wherever it is. Either it forks, or it is told that it cannot.
    handler = ctypes.CDLL({str(compiled)!r})
    told = lambda name: ctypes.c_int.in_dll(handler, name).value
    handler.install(signal.SIGPROF)
    signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
    while told("forked") + told("refused") < 100 or not told("forked") or not told("refused"):
        block = malloc(100_000)
        put(block, 4096, 1)
        free(realloc(block, 300_000))
    signal.setitimer(signal.ITIMER_PROF, 0)
    assert told("wrong") == 0
    """)


def test_memory_freed_after_a_fork_goes_back() -> None:
    run("""
    # A second thread: what a fork froze stays frozen.
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    reader, writer = os.pipe()
    blocks = [malloc(8 * MIB) for _ in range(16)]
    [put(block, 8 * MIB, 1) for block in blocks]
    kept = malloc(MIB)
    put(kept, MIB, 2)
    def body():
        os.read(reader, 1)
        return all(holds(block, 8 * MIB, 1) for block in blocks) and holds(kept, MIB, 2)
    child = in_child(body)
    other = malloc(MIB)
    [free(block) for block in blocks]
    stale, held = arena().stale, arena().held
    os.write(writer, b"x")
    ok(child)
    assert stale >= 128 * MIB and held >= 128 * MIB, (stale, held)
    # The next new memory looks whether the old can go.
    put(malloc(16 * MIB), MIB, 1)
    assert arena().stale == 0 and arena().held < 40 * MIB, (arena().stale, arena().held)
    assert holds(kept, MIB, 2)
    event.set()
    thread.join()
    """)


def test_the_limit_refuses_and_nothing_is_lost() -> None:
    run("""
    blocks = []
    while block := malloc(3 * MIB):
        put(block, 3 * MIB, len(blocks))
        blocks.append(block)
    assert ctypes.get_errno() == errno.ENOMEM and 15 <= len(blocks) <= 22
    assert calloc(1, 3 * MIB) is None and realloc(blocks[0], 9 * MIB) is None and c_mmap(None, 9 * MIB, 3, 0x22, -1, 0) == FAILED
    into = pointer()
    assert posix_memalign(ctypes.byref(into), 4096, 9 * MIB) == errno.ENOMEM and memalign(64, 9 * MIB) is None
    assert all(holds(block, 3 * MIB, number) for number, block in enumerate(blocks))
    free(blocks.pop())
    put(malloc(3 * MIB), 3 * MIB, 1)
    assert malloc(3 * MIB) is None
    assert malloc(1000) and bytearray(10_000)
    """, FOREBAY_ARENA_LIMIT=str(64 << 20))


def test_a_limit_of_addresses_reaches_started_programs_as_it_was_meant() -> None:
    run("""
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
    map(64 * MIB)
    for before in (None, lambda: None):
        told = subprocess.run(["/bin/sh", "-c", "ulimit -v"], capture_output=True, text=True, preexec_fn=before)
        assert told.stdout == f"{3 << 20}\\n", told
    try:
        os.execv("/nowhere", ["x"])
    except FileNotFoundError:
        pass
    assert resource.getrlimit(resource.RLIMIT_AS) == (3 << 30, resource.RLIM_INFINITY)
    put(malloc(64 * MIB), 64 * MIB, 1)
    os.execv("/bin/sh", ["sh", "-c", f"[ $(ulimit -v) = {3 << 20} ]"])
    """)


def test_an_executed_program_starts_afresh() -> None:
    run("""
    put(malloc(4 * MIB), 4 * MIB, 1)
    program = "import os; assert 'forebay' not in open('/proc/self/maps').read(); assert all('forebay' not in os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n))"
    os.execv(sys.executable, [sys.executable, "-c", program])
    """)


def test_libraries_come_and_go() -> None:
    run("""
    import _ctypes, glob
    for path in sorted(glob.glob("/usr/lib/*-linux-gnu/lib*.so.*"))[:40]:
        try:
            handle = _ctypes.dlopen(path, 2)
        except OSError:
            continue
        block = malloc(MIB)
        put(block, MIB, 1)
        _ctypes.dlclose(handle)
        free(block)
    ok(in_child(lambda: True))
    """)


def test_killed_in_the_middle() -> None:
    run("""
    import random
    random.seed(3)
    data = malloc(4 * MIB)
    put(data, 4 * MIB, 1)
    for _ in range(20):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"x")
            while True:
                block = malloc(random.randrange(65_536, 4 * MIB))
                put(block, 65_536, 2)
                put(data, 65_536, 2)
                free(realloc(block, 5 * MIB))
        os.read(reader, 1)
        sum(range(random.randrange(200_000)))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        os.close(reader), os.close(writer)
        block = malloc(MIB)
        put(block, MIB, 3)
        assert holds(data, 4 * MIB, 1)
    """)


def test_freed_at_the_very_end() -> None:
    assert run("""
    import atexit
    import numpy as np
    blocks = [malloc(MIB) for _ in range(10)]
    table = np.arange(1_000_000)
    class Late:
        data = np.arange(1_000_000)
        def __del__(self):
            free(blocks[0])
            os.write(1, b"late ")
    late = Late()
    late.itself = late
    gc.disable()
    atexit.register(lambda: [free(block) for block in blocks[1:]])
    atexit.register(lambda: ok(in_child(lambda: table.sum() == 499_999_500_000)))
    print("end", flush=True)
    """).startswith("end\n")


@pytest.mark.parametrize(
    "command",
    [
        ["/bin/ls", "-l", "/"],
        ["/bin/bash", "-c", "seq 100000 | sort -rn | head -3 | (read a; echo $a; x=$(seq 3 | tac); echo $x)"],
        ["/sbin/ldconfig", "-V"],
        ["/bin/su", "--version"],
        ["/usr/bin/env", "python3", "-c", "print(len(bytearray(10_000_000)))"],
        ["/usr/bin/git", "--version"],
        ["/usr/bin/perl", "-e", "my $x = 'a' x 50_000_000; if (my $p = fork) { waitpid $p, 0 } else { $x .= 'b'; exit 0 } print length($x)"],
    ],
    ids=lambda command: Path(command[0]).name,
)
def test_ordinary_programs(command: list[str]) -> None:
    """Dynamically and statically linked ones, and one that runs with other rights: as without the library."""
    if not shutil.which(command[0]):
        pytest.skip(f"skipped: there is no {command[0]}")
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("LD_", "FOREBAY_"))}
    with_, without = (
        subprocess.run(command, env=plain | more, capture_output=True, text=True, timeout=60) for more in ({"LD_PRELOAD": str(library())}, {})
    )
    assert (with_.returncode, with_.stdout, with_.stderr) == (without.returncode, without.stdout, without.stderr)
    assert with_.returncode == 0
