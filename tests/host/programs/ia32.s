# A static program for 32-bit x86.
    .globl _start
    .text
_start:
    mov $4, %eax
    mov $1, %ebx
    mov $text, %ecx
    mov $5, %edx
    int $0x80
    mov $1, %eax
    xor %ebx, %ebx
    int $0x80

    .section .rodata
text:
    .ascii "ia32\n"
    .section .note.GNU-stack, "", @progbits
