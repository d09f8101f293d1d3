#include "ahead.h"

#if defined(__x86_64__)

#include <string.h>
#include <sys/uio.h>

/* An instruction while it is decoded: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter 2. */
struct instruction {
    const uint8_t *begin, *next, *end;
    struct user_regs_struct *registers;
    pid_t tid;
    read_memory *read;
    unsigned rex;
    unsigned reg;   /* operand of ModRM.reg */
    unsigned rm;    /* operand of ModRM.rm, where that is a register */
    bool is_memory; /* the operand of ModRM.rm is in memory, at `address` */
    uint64_t address;
    bool failed;
};

static unsigned long long *register_of(struct user_regs_struct *registers, unsigned number)
{
    unsigned long long *all[] = {
        &registers->rax, &registers->rcx, &registers->rdx, &registers->rbx, &registers->rsp, &registers->rbp,
        &registers->rsi, &registers->rdi, &registers->r8,  &registers->r9,  &registers->r10, &registers->r11,
        &registers->r12, &registers->r13, &registers->r14, &registers->r15,
    };
    return all[number];
}

static bool is_wide(const struct instruction *one)
{
    return one->rex & 8;
}

/* Read an immediate or a displacement, sign-extended. */
static uint64_t constant(struct instruction *one, size_t size)
{
    int64_t value = 0;
    if ((size_t)(one->end - one->next) < size) {
        one->failed = true;
        return 0;
    }
    memcpy(&value, one->next, size);
    one->next += size;
    return (uint64_t)(size == 1 ? (int8_t)value : size == 4 ? (int32_t)value : value);
}

static uint64_t get(struct instruction *one, unsigned number)
{
    uint64_t value = *register_of(one->registers, number);
    return is_wide(one) ? value : (uint32_t)value;
}

static void put(struct instruction *one, unsigned number, uint64_t value)
{
    *register_of(one->registers, number) = is_wide(one) ? value : (uint32_t)value;
}

/* Decode the operands: ModRM, SIB and displacement. */
static void operands(struct instruction *one)
{
    unsigned modrm = (uint8_t)constant(one, 1), mode = modrm >> 6;
    one->reg = (modrm >> 3 & 7) | (one->rex & 4) << 1;
    one->rm = (modrm & 7) | (one->rex & 1) << 3;
    one->is_memory = mode != 3;
    bool is_relative = mode == 0 && (modrm & 7) == 5; /* to the address of the next instruction */
    one->address = 0;
    if (!one->is_memory)
        return;
    unsigned base = modrm & 7;
    if (base == 4) {
        unsigned sib = (uint8_t)constant(one, 1), index = (sib >> 3 & 7) | (one->rex & 2) << 2;
        base = sib & 7;
        if (index != 4)
            one->address += *register_of(one->registers, index) << (sib >> 6);
        if (base == 5 && mode == 0) {
            one->address += constant(one, 4);
            return;
        }
    }
    if (!is_relative)
        one->address += *register_of(one->registers, base | (one->rex & 1) << 3);
    if (mode == 1)
        one->address += constant(one, 1);
    else if (mode == 2 || is_relative)
        one->address += constant(one, 4);
    if (is_relative) /* no emulated instruction has an immediate after such an operand */
        one->address += one->registers->rip + (uint64_t)(one->next - one->begin);
}

/* The value of the operand of ModRM.rm. */
static uint64_t source(struct instruction *one)
{
    uint64_t value = 0;
    if (!one->is_memory)
        return get(one, one->rm);
    if (!one->failed && !one->read(one->tid, one->address, &value, is_wide(one) ? 8 : 4))
        one->failed = true;
    return value;
}

/* Compute one of the eight operations of opcodes 00-3f and 80-83. */
static uint64_t computed(struct instruction *one, unsigned operation, uint64_t left, uint64_t right)
{
    switch (operation) {
    case 0:
        return left + right;
    case 1:
        return left | right;
    case 4:
        return left & right;
    case 5:
        return left - right;
    case 6:
        return left ^ right;
    default: /* adc and sbb need the carry flag, which is not emulated */
        one->failed = true;
        return 0;
    }
}

enum { COMPARE = 7 };

/* Emulate one instruction. One that only sets flags has no effect. */
static void emulate_one(struct instruction *one)
{
    unsigned opcode = (uint8_t)constant(one, 1);
    one->rex = 0;
    if ((opcode & 0xf0) == 0x40) {
        one->rex = opcode & 15;
        opcode = (uint8_t)constant(one, 1);
    }
    unsigned operation = opcode >> 3 & 7;
    if (opcode >= 0xb8 && opcode <= 0xbf) { /* mov register, constant */
        put(one, (opcode & 7) | (one->rex & 1) << 3, constant(one, is_wide(one) ? 8 : 4));
        return;
    }
    if (opcode < 0x40 && (opcode & 7) < 4) {
        operands(one);
        bool is_byte = !(opcode & 1), to_register = opcode & 2;
        if (operation == COMPARE)
            return;
        if (is_byte || (one->is_memory && !to_register)) {
            one->failed = true;
            return;
        }
        unsigned target = to_register ? one->reg : one->rm;
        put(one, target, computed(one, operation, get(one, target), to_register ? source(one) : get(one, one->reg)));
        return;
    }
    switch (opcode) {
    case 0x63: /* movsxd */
        operands(one);
        {
            unsigned rex = one->rex;
            one->rex &= ~8u;
            uint64_t value = source(one);
            one->rex = rex;
            put(one, one->reg, (uint64_t)(int32_t)value);
        }
        return;
    case 0x80: /* on bytes */
    case 0x81:
    case 0x83:
        operands(one);
        operation = one->reg & 7;
        {
            uint64_t value = constant(one, opcode == 0x81 ? 4 : 1);
            if (operation == COMPARE)
                return;
            if (opcode == 0x80 || one->is_memory)
                one->failed = true;
            else
                put(one, one->rm, computed(one, operation, get(one, one->rm), value));
        }
        return;
    case 0x84: /* test */
    case 0x85:
        operands(one);
        return;
    case 0x89: /* mov */
        operands(one);
        if (one->is_memory)
            one->failed = true;
        else
            put(one, one->rm, get(one, one->reg));
        return;
    case 0x8b:
        operands(one);
        put(one, one->reg, source(one));
        return;
    case 0x8d: /* lea */
        operands(one);
        if (!one->is_memory)
            one->failed = true;
        put(one, one->reg, one->address);
        return;
    case 0xc7: /* mov */
        operands(one);
        if (one->is_memory || one->reg & 7)
            one->failed = true;
        else
            put(one, one->rm, constant(one, 4));
        return;
    default:
        one->failed = true;
    }
}

bool emulate(const uint8_t *code, size_t size, struct user_regs_struct *registers, pid_t tid, read_memory *read)
{
    struct user_regs_struct now = *registers;
    struct instruction one = {.begin = code, .next = code, .end = code + size, .registers = &now, .tid = tid, .read = read};
    while (one.next < one.end && !one.failed)
        emulate_one(&one);
    if (one.failed)
        return false;
    now.rip += size;
    *registers = now;
    return true;
}

static bool read_thread(pid_t tid, uint64_t address, void *into, size_t size)
{
    struct iovec local = {into, size}, remote = {(void *)address, size};
    return process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

bool emulate_until(pid_t tid, const uint8_t code[AHEAD_BYTES], struct user_regs_struct *registers, uint64_t until)
{
    uint8_t own[AHEAD_BYTES];
    uint64_t size = until - registers->rip;
    if (size > AHEAD_BYTES || (!code && !read_thread(tid, registers->rip, own, size)))
        return false;
    return emulate(code ? code : own, size, registers, tid, read_thread);
}

#endif
