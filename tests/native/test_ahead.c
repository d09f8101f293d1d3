/* Run random instructions by emulation and by the processor, and compare the registers. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ahead.h"

#if defined(__x86_64__)

enum { ROUNDS = 200000, BYTES = 64, BASE = 3 /* rbx, the base address of reads */, STACK = 4 };

/* Load all registers but the stack pointer, numbered as in instructions. Call the code and store them. */
void run_native(const void *code, uint64_t registers[16]);
asm(".globl run_native\n"
    "run_native:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdi; push %rsi\n"
    "mov 0(%rsi), %rax; mov 8(%rsi), %rcx; mov 16(%rsi), %rdx; mov 24(%rsi), %rbx; mov 40(%rsi), %rbp; mov 56(%rsi), %rdi\n"
    "mov 64(%rsi), %r8; mov 72(%rsi), %r9; mov 80(%rsi), %r10; mov 88(%rsi), %r11\n"
    "mov 96(%rsi), %r12; mov 104(%rsi), %r13; mov 112(%rsi), %r14; mov 120(%rsi), %r15; mov 48(%rsi), %rsi\n"
    "call *8(%rsp)\n"
    "push %rax; mov 8(%rsp), %rax\n"
    "mov %rcx, 8(%rax); mov %rdx, 16(%rax); mov %rbx, 24(%rax); mov %rbp, 40(%rax); mov %rsi, 48(%rax); mov %rdi, 56(%rax)\n"
    "mov %r8, 64(%rax); mov %r9, 72(%rax); mov %r10, 80(%rax); mov %r11, 88(%rax)\n"
    "mov %r12, 96(%rax); mov %r13, 104(%rax); mov %r14, 112(%rax); mov %r15, 120(%rax)\n"
    "pop %rcx; mov %rcx, 0(%rax)\n"
    "pop %rsi; pop %rdi; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "ret\n");

static uint8_t *code;
static size_t size;
static uint64_t memory[64];
static uint64_t seed = 1;

static unsigned any(unsigned below)
{
    seed = seed * 6364136223846793005 + 1442695040888963407;
    return (unsigned)(seed >> 33) % below;
}

static void byte(unsigned value)
{
    code[size++] = (uint8_t)value;
}

static void number(size_t bytes)
{
    while (bytes--)
        byte(any(256));
}

static unsigned source(void)
{
    unsigned one;
    while ((one = any(16)) == STACK)
        ;
    return one;
}

static unsigned target(void)
{
    unsigned one;
    while ((one = source()) == BASE)
        ;
    return one;
}

static unsigned rex(unsigned reg, unsigned index, unsigned rm)
{
    return 0x40 | any(2) << 3 | (reg & 8) >> 1 | (index & 8) >> 2 | (rm & 8) >> 3;
}

static void on_registers(unsigned opcode, unsigned reg, unsigned rm)
{
    byte(rex(reg, 0, rm));
    byte(opcode);
    byte(0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* An operand with an address of any form, which is not accessed. */
static void with_address(unsigned opcode, unsigned reg)
{
    unsigned base = any(16), index = any(16), mode = any(3);
    byte(rex(reg, index, base));
    byte(opcode);
    if (any(2)) { /* with an index; number 4 means none */
        index = index == STACK || base == STACK ? source() : index;
        code[size - 2] = (uint8_t)((code[size - 2] & ~3u) | (index & 8) >> 2 | (base & 8) >> 3);
        if ((base & 15) == STACK) { /* the processor has another stack */
            base = BASE;
            code[size - 2] &= (uint8_t)~1u;
        }
        byte(mode << 6 | (reg & 7) << 3 | 4);
        byte(any(4) << 6 | (index & 7) << 3 | (base & 7));
        number(mode == 1 ? 1 : mode == 2 || (base & 7) == 5 ? 4 : 0);
    } else {
        if ((base & 7) == STACK) {
            base = BASE;
            code[size - 2] &= (uint8_t)~1u;
        }
        byte(mode << 6 | (reg & 7) << 3 | (base & 7));
        number(mode == 1 ? 1 : mode == 2 || (base & 7) == 5 ? 4 : 0);
    }
}

/* A load from `memory`, or from the code itself. */
static void with_memory(unsigned opcode, unsigned reg)
{
    byte(rex(reg, 0, 0));
    byte(opcode);
    if (any(3)) {
        byte(1 << 6 | (reg & 7) << 3 | BASE);
        byte(any(256));
    } else {
        byte((reg & 7) << 3 | 5);
        unsigned distance = any(BYTES - 8); /* zeros follow the code */
        byte(distance);
        byte(0), byte(0), byte(0);
    }
}

static void instruction(void)
{
    static const unsigned computing[] = {0x01, 0x03, 0x09, 0x0b, 0x21, 0x23, 0x29, 0x2b,
                                         0x31, 0x33, 0x39, 0x3b, 0x85, 0x89, 0x8b, 0x63};
    unsigned opcode = computing[any(16)], reg, wide;
    switch (any(9)) {
    case 0:
        reg = target();
        wide = rex(0, 0, reg);
        byte(wide);
        byte(0xb8 | (reg & 7));
        number(wide & 8 ? 8 : 4);
        return;
    case 1:
        on_registers(0xc7, 0, target());
        number(4);
        return;
    case 2: {
        static const unsigned operations[] = {0, 1, 4, 5, 6, 7};
        opcode = any(2) ? 0x81 : 0x83;
        on_registers(opcode, operations[any(6)], target());
        number(opcode == 0x81 ? 4 : 1);
        return;
    }
    case 3:
    case 4:
        with_address(0x8d, target());
        return;
    case 5:
        with_memory(any(2) ? 0x8b : 0x63, target());
        return;
    case 6: {
        static const unsigned loading[] = {0x03, 0x0b, 0x23, 0x2b, 0x33, 0x3b, 0x39, 0x38, 0x3a, 0x84, 0x85};
        with_memory(loading[any(11)], target());
        return;
    }
    default:
        on_registers(opcode, target(), target());
    }
}

static bool read_own(pid_t tid, uint64_t address, void *into, size_t bytes)
{
    (void)tid;
    memcpy(into, (void *)address, bytes);
    return true;
}

static const size_t offsets[] = {
    offsetof(struct user_regs_struct, rax), offsetof(struct user_regs_struct, rcx), offsetof(struct user_regs_struct, rdx),
    offsetof(struct user_regs_struct, rbx), offsetof(struct user_regs_struct, rsp), offsetof(struct user_regs_struct, rbp),
    offsetof(struct user_regs_struct, rsi), offsetof(struct user_regs_struct, rdi), offsetof(struct user_regs_struct, r8),
    offsetof(struct user_regs_struct, r9),  offsetof(struct user_regs_struct, r10), offsetof(struct user_regs_struct, r11),
    offsetof(struct user_regs_struct, r12), offsetof(struct user_regs_struct, r13), offsetof(struct user_regs_struct, r14),
    offsetof(struct user_regs_struct, r15),
};

static int compare(void)
{
    uint64_t registers[16];
    struct user_regs_struct copy = {.rip = (uint64_t)code};
    for (int i = 0; i < 16; i++) {
        for (int part = 0; part < 4; part++)
            registers[i] = registers[i] << 16 ^ any(1 << 16);
        registers[i] = any(4) ? registers[i] : any(300) - 150;
    }
    registers[BASE] = (uint64_t)(memory + 32);
    for (int i = 0; i < 16; i++)
        memcpy((char *)&copy + offsets[i], &registers[i], 8);
    memset(code, 0, 2 * BYTES);
    size = 0;
    for (unsigned i = 0, count = 1 + any(5); i < count; i++)
        instruction();
    size_t length = size;
    byte(0xc3); /* ret */
    if (!emulate(code, length, &copy, 0, read_own) || copy.rip != (uint64_t)code + length) {
        printf("not emulated:");
    } else {
        run_native(code, registers);
        int different = -1;
        for (int i = 0; i < 16; i++)
            different = i != STACK && memcmp((char *)&copy + offsets[i], &registers[i], 8) ? i : different;
        if (different < 0)
            return 0;
        printf("register %d differs:", different);
    }
    for (size_t i = 0; i < length; i++)
        printf(" %02x", code[i]);
    printf("\n");
    return 1;
}

static bool read_none(pid_t tid, uint64_t address, void *into, size_t bytes)
{
    (void)tid, (void)address;
    memset(into, 0, bytes);
    return true;
}

/* Emulation of any bytes reads nothing beyond their end. */
static void run_odd_code(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        size_t length = any(12);
        uint8_t *odd = malloc(length); /* of the exact size, so that the sanitizer finds a read beyond it */
        struct user_regs_struct copy = {0};
        for (size_t i = 0; odd && i < length; i++)
            odd[i] = (uint8_t)any(256);
        emulate(odd, odd ? length : 0, &copy, 0, read_none);
        free(odd);
    }
}

int main(void)
{
    int failures = 0;
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < 64; i++)
        memory[i] = i * 0x9e3779b97f4a7c15;
    for (int round = 0; round < ROUNDS && failures < 10; round++)
        failures += compare();
    run_odd_code();
    return failures != 0;
}

#else
int main(void)
{
    return 0;
}
#endif
