// The scheduler behind cuda_on_cpu.h: a fiber for each thread of a block, and where they meet.
//
// It is compiled without instrumentation, and tells the sanitizers what they can't see: which
// fiber runs, and that a barrier orders what comes before it and after. A shuffle orders nothing,
// as on a card.
#include "cuda_on_cpu.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#if defined(WITH_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateBenignRaceSized(const char*, int, const volatile void*, size_t, const char*);
}
constexpr unsigned NO_SYNC = 1;  // a switch is no message from one thread to the next
#define TSAN(call) call
#else
#define TSAN(call)
#endif
#if defined(WITH_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
}
#endif

namespace cuda_on_cpu {

Position* position;
Index block_size, grid_size;

namespace {

constexpr size_t STACK_BYTES = 128 * 1024;
#if defined(WITH_TSAN) || defined(WITH_ASAN)
constexpr bool SANITIZED = true;
#else
constexpr bool SANITIZED = false;
#endif
enum Order { FORWARD, BACKWARD, RANDOM };

struct Fiber {
    Position position;  // first, so that a position is its fiber
    int number = 0;
    int waits_at = 0;  // line
    std::uint64_t brought = 0;
    int source = 0;
    ucontext_t context;
    jmp_buf jump;
    bool has_begun = false;
    void* stack = nullptr;
    [[maybe_unused]] void* tsan = nullptr;  // the sanitizer's thread that this fiber is
    void* fake_stack = nullptr;
};
// What is costly to make, and is used again by later fibers.
struct Berth {
    void* stack = nullptr;
    void* tsan = nullptr;
};

struct Warp {
    unsigned int mask = 0, arrived = 0;
    int line = 0;
};

// Some of the state outlives a launch: berths, and what is poisoned.
std::vector<Fiber> fibers;
std::vector<Berth> berths;
// Blocks that the sanitizer takes for different threads, where they are not ordered.
constexpr unsigned int UNORDERED_BLOCKS = 2;
std::vector<Warp> warps;
std::vector<std::pair<char*, size_t>> shared;
ucontext_t host;
[[maybe_unused]] void* host_tsan;
[[maybe_unused]] const void* host_stack;
[[maybe_unused]] size_t host_stack_bytes;
void* host_fake_stack;

Fiber* current;
std::vector<Fiber*> ready;  // a ring; nothing is allocated while fibers run
size_t ready_first, ready_count;
int at_barrier, running;
int generation;  // of the block's barrier
// Addresses by which the sanitizer orders things.
[[maybe_unused]] char barrier[2], block_begin, launch_end, block_end;
[[maybe_unused]] bool blocks_are_ordered = true;
Order order;
std::mt19937 randomness;
char problem[256];

using Kernel = void (*)(std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t,
                        std::uint64_t);
Kernel kernel;
std::uint64_t arguments[6];

// Those who wake are taken up in turn, or drawn.
Fiber* next_ready() {
    if (ready_count == 0) {
        return nullptr;
    }
    if (order == RANDOM) {
        const unsigned int drawn = randomness() % ready_count;
        std::swap(ready[ready_first], ready[(ready_first + drawn) % ready.size()]);
    }
    Fiber* next = ready[ready_first];
    ready_first = (ready_first + 1) % ready.size();
    --ready_count;
    return next;
}

// The fibers from ``first`` on that ``mask`` has, or all; backward means that the last comes first.
void wake(int first, int count, unsigned int mask = ~0u) {
    for (int i = 0; i < count; ++i) {
        const int number = order == BACKWARD ? count - 1 - i : i;
        if (mask >> number % 32 & 1) {
            fibers[first + number].waits_at = 0;
            ready[(ready_first + ready_count++) % ready.size()] = &fibers[first + number];
        }
    }
}

void enter([[maybe_unused]] void** fake_stack_of_this_one, Fiber* next) {
    current = next;
    position = next ? &next->position : nullptr;
    TSAN(__tsan_switch_to_fiber(next ? next->tsan : host_tsan, NO_SYNC));
#if defined(WITH_ASAN)
    __sanitizer_start_switch_fiber(fake_stack_of_this_one, next ? next->stack : host_stack,
                                   next ? STACK_BYTES : host_stack_bytes);
#endif
}

void entered([[maybe_unused]] void* fake_stack) {
#if defined(WITH_ASAN)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
    if (!host_stack) {  // the very first to be entered was so by the host
        host_stack = bottom, host_stack_bytes = size;
    }
#endif
}

[[noreturn]] void resume(Fiber* next) {
    if (next && next->has_begun && !SANITIZED) {
        _longjmp(next->jump, 1);
    }
    setcontext(next ? &next->context : &host);
    std::abort();
}

// Let another thread run; without one, back to the host, which finds out what is wrong.
void give_way() {
    Fiber* self = current;
    Fiber* next = next_ready();
    enter(&self->fake_stack, next);
    if (SANITIZED) {
        swapcontext(&self->context, next ? &next->context : &host);
    } else if (_setjmp(self->jump) == 0) {
        // The same without a system call for the signals, which is most of a switch. Sanitizers
        // have their own idea of a jump.
        resume(next);
    }
    entered(self->fake_stack);
}

[[noreturn]] void fail() {
    enter(nullptr, nullptr);
    resume(nullptr);
}

void run() {
    entered(nullptr);
    current->has_begun = true;
    TSAN(__tsan_acquire(&block_begin));
    kernel(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
    TSAN(__tsan_release(&launch_end));
    TSAN(if (blocks_are_ordered) __tsan_release(&block_end));
    --running;
    Fiber* next = next_ready();
    enter(nullptr, next);
    resume(next);
}

void explain_deadlock() {
    for (const Fiber& fiber : fibers) {
        if (fiber.waits_at) {
            std::snprintf(problem, sizeof problem,
                          "thread %d of block %u waits in line %d for threads that never come",
                          fiber.number, fiber.position.block.x, fiber.waits_at);
            return;
        }
    }
}

void begin_fiber(int number, Index block) {
    Fiber& fiber = fibers[number];
    const size_t set = blocks_are_ordered ? 0 : block.x % UNORDERED_BLOCKS;
    Berth& berth = berths[set * fibers.size() + number];
    if (!berth.stack) {
        berth.stack = std::aligned_alloc(4096, STACK_BYTES);
        TSAN(berth.tsan = __tsan_create_fiber(0));
    }
    fiber = Fiber{};
    fiber.stack = berth.stack;
    fiber.tsan = berth.tsan;
    fiber.number = number;
    fiber.position = {{number % block_size.x, number / block_size.x, 0}, block};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run, 0);
}

void run_block(Index block) {
    TSAN(if (blocks_are_ordered) __tsan_acquire(&block_end));
    for (auto [address, bytes] : shared) {
        std::memset(address, POISON, bytes);
    }
    TSAN(__tsan_release(&block_begin));
    const int count = static_cast<int>(block_size.x * block_size.y * block_size.z);
    at_barrier = 0;
    running = count;
    ready.assign(count, nullptr);
    ready_first = ready_count = 0;
    current = nullptr;
    warps.assign((count + 31) / 32, Warp{});
    for (int number = 0; number < count; ++number) {
        begin_fiber(number, block);
    }
    wake(0, count);
    Fiber* first = next_ready();
    enter(&host_fake_stack, first);
    swapcontext(&host, &first->context);
    entered(host_fake_stack);
    if (running && !problem[0]) {
        explain_deadlock();
    }
}

}  // namespace

int lane() { return current->number % 32; }

void let_others_run() {
    ready[(ready_first + ready_count++) % ready.size()] = current;
    give_way();
}

void wait_for_block(int line) {
    Fiber& self = *current;
    // Two take turns: whoever is late for one barrier must not learn from the next.
    [[maybe_unused]] char* here = &barrier[generation % 2];
    TSAN(__tsan_release(here));
    self.waits_at = line;
    if (++at_barrier == static_cast<int>(fibers.size())) {
        at_barrier = 0;
        ++generation;
        for (Fiber& fiber : fibers) {
            if (fiber.waits_at != line) {
                std::snprintf(problem, sizeof problem,
                              "thread %d waits in line %d, thread %d in line %d", self.number,
                              line, fiber.number, fiber.waits_at);
                fail();
            }
        }
        wake(0, static_cast<int>(fibers.size()));
    }
    give_way();
    TSAN(__tsan_acquire(here));
}

std::uint64_t exchange(unsigned int mask, std::uint64_t bits, int source, int line) {
    Fiber& self = *current;
    Warp& warp = warps[self.number / 32];
    const int first = self.number / 32 * 32;
    const unsigned int mine = 1u << lane();
    if (!warp.arrived) {
        warp.mask = mask, warp.line = line;
    }
    if (!(mask & mine) || mask != warp.mask || line != warp.line) {
        std::snprintf(problem, sizeof problem,
                      "lane %d shuffles in line %d with mask %#x, its warp in line %d with %#x",
                      lane(), line, mask, warp.line, warp.mask);
        fail();
    }
    // A lane beyond the warp brings one's own value, as on a card.
    self.brought = bits, self.source = source >= 0 && source < 32 ? source : lane();
    self.waits_at = line;
    warp.arrived |= mine;
    if (warp.arrived == mask) {
        std::uint64_t found[32];
        for (int i = 0; i < 32; ++i) {
            if (mask >> i & 1) {
                const int from = fibers[first + i].source;
                std::memset(&found[i], POISON, sizeof found[i]);
                if (mask >> from & 1) {
                    found[i] = fibers[first + from].brought;
                }
            }
        }
        for (int i = 0; i < 32; ++i) {
            if (mask >> i & 1) {
                fibers[first + i].brought = found[i];
            }
        }
        wake(first, 32, mask);
        warp.arrived = 0;
    }
    give_way();
    return self.brought;
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

// To be called once for each __shared__ variable.
extern "C" __attribute__((visibility("default"))) void add_shared(char* address, size_t bytes) {
    shared.emplace_back(address, bytes);
}

// Without an order between blocks a sanitizer finds what they do to each other's memory. Shared
// memory is then out of it, since here blocks have the same.
extern "C" __attribute__((visibility("default"))) void order_blocks([[maybe_unused]] bool ordered) {
    TSAN(blocks_are_ordered = ordered);
    TSAN(if (!ordered) for (auto [address, bytes] : shared)
             AnnotateBenignRaceSized(__FILE__, __LINE__, address, bytes, "blocks take turns"));
}

// Run all blocks, or ``only`` the one of this number if that isn't negative. Null if all threads of
// these came to their end, else what was wrong.
extern "C" __attribute__((visibility("default"))) const char* launch(
    void* function, const unsigned int grid[3], const unsigned int block[3],
    const std::uint64_t values[6], int how, unsigned int seed, long long only) {
    kernel = reinterpret_cast<Kernel>(function);
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    std::memcpy(arguments, values, sizeof arguments);
    order = static_cast<Order>(how);
    randomness.seed(seed);
    problem[0] = 0;
    const unsigned int threads = block[0] * block[1] * block[2];
    fibers.resize(threads);
    berths.resize(UNORDERED_BLOCKS * threads);
    TSAN(host_tsan = __tsan_get_current_fiber());
    const unsigned int blocks = grid[0] * grid[1] * grid[2];
    const unsigned int first = only < 0 ? 0 : only, end = only < 0 ? blocks : first + 1;
    for (unsigned int i = first; i < end && !problem[0]; ++i) {
        const unsigned int number = order == BACKWARD ? first + end - 1 - i : i;
        run_block({number % grid[0], number / grid[0] % grid[1], number / grid[0] / grid[1]});
    }
    TSAN(__tsan_acquire(&launch_end));
    return problem[0] ? problem : nullptr;
}
