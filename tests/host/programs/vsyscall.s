# A static program of the time before vDSOs: it calls time, gettimeofday and getcpu at their fixed
# addresses in the vsyscall page (arch/x86/include/uapi/asm/vsyscall.h) and reads that page.
    .globl _start
    .text
_start:
    mov $0xffffffffff600400, %rax
    xor %edi, %edi
    call *%rax
    cmp $1000000000, %rax
    jl fail
    mov %rax, %rbx

    mov $0xffffffffff600000, %rax
    lea timeval(%rip), %rdi
    xor %esi, %esi
    call *%rax
    test %rax, %rax
    jnz fail
    cmp %rbx, timeval(%rip)
    jl fail

    mov $0xffffffffff600800, %rax
    lea cpu(%rip), %rdi
    xor %esi, %esi
    xor %edx, %edx
    call *%rax
    test %rax, %rax
    jnz fail

    mov $0xffffffffff600000, %rax
    mov (%rax), %al

    mov $1, %eax
    mov $1, %edi
    lea text(%rip), %rsi
    mov $9, %edx
    syscall
    xor %edi, %edi
    jmp exit
fail:
    mov $1, %edi
exit:
    mov $60, %eax
    syscall

    .section .rodata
text:
    .ascii "vsyscall\n"
    .bss
    .balign 16
timeval:
    .skip 16
cpu:
    .skip 4
    .section .note.GNU-stack, "", @progbits
