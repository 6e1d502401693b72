//! Holds a pattern in the registers of the processor that a snapshot must keep, until the file
//! `/tmp/go` exists; then prints which still hold it. The test compiles it statically.

use std::arch::asm;
use std::sync::atomic::{AtomicU8, Ordering};

static GO: AtomicU8 = AtomicU8::new(0);

/// Rounding towards zero, and the same with 53 bits of precision for the x87.
const MXCSR: u32 = 0x7f80;
const X87_CONTROL: u16 = 0x0e7f;

fn main() {
    let has_avx = is_x86_feature_detected!("avx");
    std::thread::spawn(|| {
        while !std::path::Path::new("/tmp/go").exists() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        GO.store(1, Ordering::SeqCst);
    });
    let pattern: [u8; 32] = std::array::from_fn(|at| at as u8 * 7 + 3);
    let mut vector = [0u8; 32];
    let (mut mxcsr, mut control, mut r15) = (MXCSR, X87_CONTROL, 0u64);
    // SAFETY: reads and writes the variables that it is given, for as long as they live; the control
    // words are restored before it ends.
    unsafe {
        if has_avx {
            asm!(
                "vmovdqu ymm7, [{pattern}]",
                "vmovdqu ymm15, [{pattern}]",
                "sub rsp, 16", "stmxcsr [rsp]", "fnstcw [rsp + 4]",
                "ldmxcsr [{mxcsr}]", "fldcw [{control}]", "mov r15, 0x123456789abcdef",
                "2: pause", "cmp byte ptr [{go}], 0", "je 2b",
                "stmxcsr [{mxcsr}]", "fnstcw [{control}]",
                "ldmxcsr [rsp]", "fldcw [rsp + 4]", "add rsp, 16",
                "vpxor ymm7, ymm7, ymm15",
                "vpor ymm7, ymm7, ymm15",
                "vmovdqu [{vector}], ymm7",
                pattern = in(reg) pattern.as_ptr(), vector = in(reg) vector.as_mut_ptr(),
                mxcsr = in(reg) &raw mut mxcsr, control = in(reg) &raw mut control, go = in(reg) GO.as_ptr(),
                out("r15") r15, out("xmm7") _, out("xmm15") _,
            );
        } else {
            asm!(
                "movdqu xmm7, [{pattern}]",
                "movdqu xmm15, [{pattern} + 16]",
                "sub rsp, 16", "stmxcsr [rsp]", "fnstcw [rsp + 4]",
                "ldmxcsr [{mxcsr}]", "fldcw [{control}]", "mov r15, 0x123456789abcdef",
                "2: pause", "cmp byte ptr [{go}], 0", "je 2b",
                "stmxcsr [{mxcsr}]", "fnstcw [{control}]",
                "ldmxcsr [rsp]", "fldcw [rsp + 4]", "add rsp, 16",
                "movdqu [{vector}], xmm7", "movdqu [{vector} + 16], xmm15",
                pattern = in(reg) pattern.as_ptr(), vector = in(reg) vector.as_mut_ptr(),
                mxcsr = in(reg) &raw mut mxcsr, control = in(reg) &raw mut control, go = in(reg) GO.as_ptr(),
                out("r15") r15, out("xmm7") _, out("xmm15") _,
            );
        }
    }
    println!(
        "{} {} {} {} {}",
        if has_avx { "ymm" } else { "xmm" },
        vector == pattern,
        mxcsr & 0xffc0 == MXCSR,
        control == X87_CONTROL,
        r15 == 0x0123_4567_89ab_cdef
    );
}
