# A guest in one boot sector: prints an increasing decimal number, one a line, on the first serial
# port, nine times a second (every second tick of the BIOS clock). For tests with many guests.
        .code16
        .globl _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        ljmp    $0, $start
start:
        sti
        cld

        # 115200 baud, eight bits, no parity, one stop bit, FIFOs on.
        movw    $0x3fb, %dx
        movb    $0x80, %al
        outb    %al, %dx
        movw    $0x3f8, %dx
        movb    $1, %al
        outb    %al, %dx
        incw    %dx
        xorb    %al, %al
        outb    %al, %dx
        movw    $0x3fb, %dx
        movb    $0x03, %al
        outb    %al, %dx
        movw    $0x3fa, %dx
        movb    $0x07, %al
        outb    %al, %dx

        xorl    %ebp, %ebp              # the number
        call    ticks
        movw    %dx, %di                # the tick of the last line

wait:
        hlt
        call    ticks
        movw    %dx, %ax
        subw    %di, %ax
        cmpw    $2, %ax
        jb      wait
        movw    %dx, %di

        incl    %ebp
        movl    %ebp, %eax
        xorw    %cx, %cx                # digits on the stack
        movl    $10, %ebx
digit:
        xorl    %edx, %edx
        divl    %ebx
        pushw   %dx
        incw    %cx
        testl   %eax, %eax
        jnz     digit
print:
        popw    %ax
        addb    $'0', %al
        call    put
        loop    print
        movb    $'\n', %al
        call    put
        jmp     wait

# The low half of the BIOS clock in %dx.
ticks:
        pushw   %cx
        xorb    %ah, %ah
        int     $0x1a
        popw    %cx
        ret

# Sends %al. Gives up on a port that stays busy, so that the count goes on.
put:
        pushw   %cx
        movb    %al, %ah
        movw    $0x3fd, %dx
        xorw    %cx, %cx
busy:
        inb     %dx, %al
        testb   $0x20, %al
        loopz   busy
        movb    %ah, %al
        movw    $0x3f8, %dx
        outb    %al, %dx
        popw    %cx
        ret

        .org    510
        .byte   0x55, 0xaa
