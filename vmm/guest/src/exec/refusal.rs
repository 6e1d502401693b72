//! Explains why the kernel refuses to execute a program: the error number alone hides the cause,
//! which often is another file.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;

/// How many bytes the kernel reads of a script's first line (`BINPRM_BUF_SIZE`).
const FIRST_LINE: usize = 256;

/// How many interpreters of interpreters are followed; the kernel stops at 5.
const MAX_DEPTH: usize = 5;

/// The maximum length of an ELF interpreter (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// Why a program cannot be executed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{} is a directory", .0.display())]
    Directory(PathBuf),
    #[error("{} is not executable", .0.display())]
    NoPermission(PathBuf),
    #[error("{} is on a file system that is mounted noexec", .0.display())]
    NoExec(PathBuf),
    #[error("{} needs {}, which {}", .path.display(), printable(.interpreter.as_os_str()), .why)]
    Interpreter {
        path: PathBuf,
        interpreter: PathBuf,
        why: InterpreterFault,
    },
    #[error("cannot execute {}: exec format error: {why}", .path.display())]
    Format { path: PathBuf, why: FormatFault },
    #[error("cannot execute {}", .path.display())]
    Other { path: PathBuf, source: io::Error },
}

/// What is wrong with an interpreter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpreterFault {
    #[error("the image does not have")]
    Missing,
    #[error(
        "the image does not have: the first line ends with \\r, a Windows line ending; \
         convert the file to Unix line endings"
    )]
    CarriageReturn,
    #[error("is a directory")]
    Directory,
    #[error("is not executable")]
    NotExecutable,
}

/// What is wrong with the format of a program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatFault {
    #[error("it is empty")]
    Empty,
    #[error("it is a program for {0}, and this machine is x86-64")]
    Machine(String),
    #[error("it is a 32-bit program, which the guest's kernel does not support")]
    ThirtyTwoBit,
    #[error("a UTF-8 byte order mark precedes its #! line")]
    ByteOrderMark,
    #[error("its #! line names no interpreter")]
    NoInterpreter,
    #[error("it is neither a program nor a script that starts with #!")]
    Unknown,
    #[error("it is damaged, or needs something that the guest's kernel lacks")]
    Program,
}

/// The cause of `error`, with which the kernel refused to execute `path`, which exists.
pub fn explain(error: io::Error, path: &Path, cwd: &Path) -> Refusal {
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    if let Errno::ACCESS | Errno::NOENT | Errno::NOEXEC | Errno::NOTDIR = errno
        && let Some(refusal) = cause(errno, path, cwd, 0)
    {
        return refusal;
    }
    let path = path.to_owned();
    match errno {
        Errno::ACCESS => Refusal::NoPermission(path),
        Errno::NOEXEC => Refusal::Format {
            path,
            why: FormatFault::Unknown,
        },
        _ => Refusal::Other {
            path,
            source: error,
        },
    }
}

/// What is wrong with `path` or its interpreter; `None` if nothing is found.
fn cause(errno: Errno, path: &Path, cwd: &Path, depth: usize) -> Option<Refusal> {
    if errno == Errno::ACCESS && is_noexec(path) {
        return Some(Refusal::NoExec(path.to_owned()));
    }
    let file = File::open(path).ok()?;
    let mut start = Vec::new();
    io::Read::take(&file, FIRST_LINE as u64)
        .read_to_end(&mut start)
        .ok()?;
    let format = |why| {
        (errno == Errno::NOEXEC).then(|| Refusal::Format {
            path: path.to_owned(),
            why,
        })
    };
    let interpreter = match Start::parse(&start) {
        Start::Empty => return format(FormatFault::Empty),
        Start::ByteOrderMark => return format(FormatFault::ByteOrderMark),
        Start::Unknown => return format(FormatFault::Unknown),
        Start::Script(None) => return format(FormatFault::NoInterpreter),
        Start::Script(Some(interpreter)) => interpreter,
        Start::Elf(header) => {
            if let Some(fault) = header.machine_fault() {
                return format(fault);
            }
            match header.interpreter(&file) {
                Some(interpreter) => interpreter,
                None => return format(FormatFault::Program),
            }
        }
    };
    let interpreter = PathBuf::from(OsStr::from_bytes(&interpreter));
    let whole = cwd.join(&interpreter);
    let why = match std::fs::metadata(&whole) {
        Err(_) if interpreter.as_os_str().as_bytes().ends_with(b"\r") => {
            InterpreterFault::CarriageReturn
        }
        Err(_) => InterpreterFault::Missing,
        Ok(found) if found.is_dir() => InterpreterFault::Directory,
        Ok(found) if !executable(&found) => InterpreterFault::NotExecutable,
        Ok(_) if depth < MAX_DEPTH => return cause(errno, &whole, cwd, depth + 1),
        Ok(_) => return None,
    };
    Some(Refusal::Interpreter {
        path: path.to_owned(),
        interpreter,
        why,
    })
}

/// Whether a file is a program, for some user.
pub(super) fn executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

fn is_noexec(path: &Path) -> bool {
    statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// The text of a path from an image, with escapes for what is not printable.
fn printable(text: &OsStr) -> String {
    String::from_utf8_lossy(text.as_bytes())
        .chars()
        .map(|c| match c.is_control() {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        })
        .collect()
}

/// What the first bytes of a program say.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Empty,
    ByteOrderMark,
    /// A script, with its interpreter.
    Script(Option<Vec<u8>>),
    Elf(ElfHeader),
    Unknown,
}

impl Start {
    fn parse(start: &[u8]) -> Start {
        if let Some(line) = start.strip_prefix(b"#!") {
            let line = line.split(|&byte| byte == b'\n').next().unwrap_or(line);
            let mut words = line.split(|byte| b" \t\0".contains(byte));
            let interpreter = words.find(|word| !word.is_empty());
            return Start::Script(interpreter.map(<[u8]>::to_vec));
        }
        if start.starts_with(b"\xef\xbb\xbf#!") {
            return Start::ByteOrderMark;
        }
        match (start.is_empty(), ElfHeader::parse(start)) {
            (true, _) => Start::Empty,
            (_, Some(header)) => Start::Elf(header),
            (_, None) => Start::Unknown,
        }
    }
}

/// The parts of an ELF header (System V ABI, chapter 4) that decide who executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ElfHeader {
    /// 64-bit fields.
    wide: bool,
    big_endian: bool,
    machine: u16,
    program_headers: u64,
    program_header_size: u16,
    program_header_count: u16,
}

const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_INTERP: u32 = 3;

impl ElfHeader {
    fn parse(start: &[u8]) -> Option<ElfHeader> {
        let ident = start.strip_prefix(b"\x7fELF")?;
        let wide = *ident.first()? == 2;
        let big_endian = *ident.get(1)? == 2;
        let short = |at: usize| {
            let bytes = start.get(at..at + 2)?.try_into().ok()?;
            Some(match big_endian {
                true => u16::from_be_bytes(bytes),
                false => u16::from_le_bytes(bytes),
            })
        };
        // Little-endian: programs of other machines are not looked into.
        let program_headers = match wide {
            true => u64::from_le_bytes(start.get(32..40)?.try_into().ok()?),
            false => u32::from_le_bytes(start.get(28..32)?.try_into().ok()?).into(),
        };
        Some(ElfHeader {
            wide,
            big_endian,
            machine: short(18)?,
            program_headers,
            program_header_size: short(if wide { 54 } else { 42 })?,
            program_header_count: short(if wide { 56 } else { 44 })?,
        })
    }

    /// Why this machine cannot execute it; `None` for its own programs.
    fn machine_fault(&self) -> Option<FormatFault> {
        let name = match (self.machine, self.wide, self.big_endian) {
            (EM_X86_64, _, false) => return None,
            (EM_386, ..) => return Some(FormatFault::ThirtyTwoBit),
            (8, ..) => "MIPS",
            (20, ..) => "32-bit PowerPC",
            (21, _, false) => "ppc64le",
            (21, ..) => "ppc64",
            (22, ..) => "s390x",
            (40, ..) => "32-bit ARM",
            (183, ..) => "arm64",
            (243, ..) => "riscv64",
            (258, ..) => "loongarch64",
            (other, ..) => return Some(FormatFault::Machine(format!("ELF machine {other}"))),
        };
        Some(FormatFault::Machine(name.to_owned()))
    }

    /// The dynamic loader that it names.
    fn interpreter(&self, file: &File) -> Option<Vec<u8>> {
        (0..u64::from(self.program_header_count)).find_map(|index| {
            let mut header = [0; 56];
            let header = &mut header[..if self.wide { 56 } else { 32 }];
            let at = index.checked_mul(self.program_header_size.into())?;
            file.read_exact_at(header, self.program_headers.checked_add(at)?)
                .ok()?;
            let word = |at: usize| {
                let bytes = header.get(at..at + 4)?.try_into().ok()?;
                Some(u32::from_le_bytes(bytes))
            };
            let (offset, length) = match self.wide {
                true => {
                    let long = |at| Some(u64::from(word(at)?) | u64::from(word(at + 4)?) << 32);
                    (long(8)?, long(32)?)
                }
                false => (word(4)?.into(), word(16)?.into()),
            };
            let length = usize::try_from(length)
                .ok()
                .filter(|&length| length <= MAX_PATH)?;
            let mut name = vec![0; length];
            (word(0)? == PT_INTERP).then_some(())?;
            file.read_exact_at(&mut name, offset).ok()?;
            name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(length));
            Some(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_bytes_tell_what_a_file_is() {
        let script = |interpreter: &[u8]| Start::Script(Some(interpreter.to_vec()));
        for (bytes, expected) in [
            (&b""[..], Start::Empty),
            (b"echo", Start::Unknown),
            (b"\xef\xbb\xbf#!/bin/sh", Start::ByteOrderMark),
            (b"#!", Start::Script(None)),
            (b"#! \t\n/bin/sh", Start::Script(None)),
            (b"#!/bin/sh", script(b"/bin/sh")),
            (b"#! \t/bin/sh -e\n", script(b"/bin/sh")),
            (b"#!/bin/sh\r\n", script(b"/bin/sh\r")),
            (b"#!/bin/env -S\tx\r\n", script(b"/bin/env")),
        ] {
            assert_eq!(Start::parse(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            printable(OsStr::new("/bin/sh\r\u{1b}é")),
            "/bin/sh\\r\\u{1b}é"
        );
    }

    #[test]
    fn the_loader_of_a_program_is_found() {
        // The test program itself is dynamic.
        let file = File::open("/proc/self/exe").unwrap();
        let mut start = vec![0; FIRST_LINE];
        file.read_exact_at(&mut start, 0).unwrap();
        let Start::Elf(header) = Start::parse(&start) else {
            panic!("not ELF");
        };
        assert_eq!(header.machine_fault(), None);
        assert_eq!(
            header.interpreter(&file).as_deref(),
            Some(&b"/lib64/ld-linux-x86-64.so.2"[..])
        );
    }

    proptest! {
        #[test]
        fn arbitrary_headers_do_not_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..128),
        ) {
            let mut elf = b"\x7fELF".to_vec();
            elf.extend(&bytes);
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&elf, 0).unwrap();
            if let Start::Elf(header) = Start::parse(&elf) {
                let _ = header.machine_fault();
                let _ = header.interpreter(&file);
            }
        }
    }
}
