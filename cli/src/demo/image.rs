//! An image made of this program alone, through the engine's own API.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::failure::Failure;

const BLOCK: usize = 512;
/// How long the engine may take for one call.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the image `name` with `program` as `/fgpu`.
pub(super) fn make(socket: &str, name: &str, program: &Path) -> Result<(), Failure> {
    let binary = fs::read(program).map_err(|error| {
        Failure::because(format!("cannot read this program, `{}`", program.display()), &error)
    })?;
    if !is_static(&binary) {
        return Err(Failure::new("this program needs libraries a bare image does not have")
            .detail(format!("`{}` is linked dynamically", program.display()))
            .hint(
                "build it static: RUSTFLAGS='-C target-feature=+crt-static' cargo build --release \
                 --target x86_64-unknown-linux-gnu, and run the demo with that one",
            ));
    }
    let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
    call(socket, "POST", &path, &archive("fgpu", &binary)).map(drop).map_err(Failure::from)
}

/// Removes the image; one that is not there is fine.
pub(super) fn remove(socket: &str, name: &str) -> Result<(), Failure> {
    match call(socket, "DELETE", &format!("/images/{name}?force=true"), &[]) {
        Err(Answer::Status(404, _)) => Ok(()),
        other => other.map(drop).map_err(Failure::from),
    }
}

/// Why the engine did not do it.
enum Answer {
    Broken(std::io::Error),
    Status(u16, String),
}

impl From<Answer> for Failure {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Broken(error) => Self::because("the engine does not answer", &error),
            Answer::Status(status, text) => {
                Self::new(format!("the engine refused ({status})")).detail(text)
            }
        }
    }
}

/// One call of the engine's HTTP API.
fn call(socket: &str, method: &str, path: &str, body: &[u8]) -> Result<String, Answer> {
    let socket = socket.strip_prefix("unix://").unwrap_or(socket);
    let answer = exchange(socket, method, path, body).map_err(Answer::Broken)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let content = text.split_once("\r\n\r\n").map(|(_, content)| content.to_owned());
    let content = content.unwrap_or_default();
    // A failed import is a line in the middle of a good answer.
    match (200..300).contains(&status) && !content.contains("\"errorDetail\"") {
        true => Ok(content),
        false => Err(Answer::Status(status, content)),
    }
}

fn exchange(socket: &str, method: &str, path: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\
         Content-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A tar archive of one executable file.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; BLOCK];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}

/// Whether a 64-bit ELF program names no interpreter, which is what loads libraries.
fn is_static(binary: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = binary.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let headers = || -> Option<bool> {
        let start = usize::try_from(number(0x20, 8)?).ok()?;
        let size = usize::try_from(number(0x36, 2)?).ok()?;
        let count = usize::try_from(number(0x38, 2)?).ok()?;
        for at in 0..count {
            if number(start.checked_add(at * size)?, 4)? == u64::from(INTERPRETER) {
                return Some(false);
            }
        }
        Some(count > 0)
    };
    binary.starts_with(b"\x7fELF\x02\x01") && headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_one_tar_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        fs::write(&path, archive("fgpu", &[7; 700])).unwrap();

        let run = |args: &[&str]| {
            let output = std::process::Command::new("tar").args(args).arg(&path).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };

        let list = String::from_utf8(run(&["-tvf"])).unwrap();
        assert!(list.starts_with("-rwxr-xr-x") && list.contains(" 700 "), "{list}");
        assert_eq!(run(&["-xOf"]), [7; 700]);
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let mut elf = vec![0_u8; 0x40 + 0x38];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40;
        elf[0x36] = 0x38;
        elf[0x38] = 1;
        elf[0x40] = 1;
        assert!(is_static(&elf));
        elf[0x40] = 3;
        assert!(!is_static(&elf));
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(b"\x7fELF\x02\x01"));
    }
}
