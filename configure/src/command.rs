//! The commands that scripts call: each type by its name, and `$__remote_exec` and `$__remote_copy`.
//!
//! One program is all of them, by the name that it is called by ([`run`]); it does nothing itself but ask the run that it
//! belongs to, over the unix socket that `__vcl_socket` names, so that a call costs one small process. What is asked and answered
//! are lists of byte strings, each with its length before it; [`crate::server`] has the other end.

use crate::emulator::{NEEDED, READ};
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// The variable with the path of the run's socket.
pub const SOCKET: &str = "__vcl_socket";
/// What `$__remote_exec` is called.
pub const REMOTE_EXEC: &str = "vcl-remote-exec";
/// What `$__remote_copy` is called.
pub const REMOTE_COPY: &str = "vcl-remote-copy";
/// How many bytes one message may have: on Linux, an argument list has six million at most.
const MOST: usize = 8 << 20;

/// Does what the program is called for, if that is one of these commands.
///
/// For `main`, before anything else: a manifest calls hundreds of these.
#[must_use]
pub fn run() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    let name = std::path::Path::new(&name).file_name()?.to_owned();
    let arguments: Vec<Vec<u8>> = arguments.map(OsString::into_vec).collect();
    let ended = match name.to_str() {
        Some(REMOTE_EXEC) => ask("exec", arguments),
        Some(REMOTE_COPY) => ask("copy", arguments),
        Some(of) if of.starts_with("__") => define(of, arguments),
        _ => return None,
    };
    Some(match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("{}: {error}", name.display()));
            ExitCode::FAILURE
        }
    })
}

fn complain(text: &str) {
    // Whoever has closed it does not want to know.
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}

fn connect() -> io::Result<UnixStream> {
    let socket = std::env::var_os(SOCKET).ok_or_else(|| {
        let why = "this command is for the scripts of a run, and there is none: the variable __vcl_socket is not set";
        io::Error::new(io::ErrorKind::NotFound, why)
    })?;
    UnixStream::connect(&socket).map_err(|error| {
        io::Error::new(error.kind(), format!("the run does not answer at {}: {error}", socket.display()))
    })
}

/// Defines an object: `__file /etc/motd --source x`.
fn define(of: &str, arguments: Vec<Vec<u8>>) -> io::Result<u8> {
    let mut stream = connect()?;
    let variables: Vec<Vec<u8>> = NEEDED
        .iter()
        .chain(&READ)
        .filter_map(|name| {
            let value = std::env::var_os(name)?;
            Some([name.as_bytes(), b"=", value.as_bytes()].concat())
        })
        .collect();
    let mut message =
        vec![b"define".to_vec(), of.as_bytes().to_vec(), variables.len().to_string().into_bytes()];
    message.extend(variables);
    message.extend(arguments);
    write_message(&mut stream, &message)?;
    let answer = read_message(&mut stream)?;
    match answer.first().map(Vec::as_slice) {
        Some(b"stdin") => {
            let file = OsString::from_vec(answer.into_iter().nth(1).unwrap_or_default());
            let stdin = io::stdin();
            // What is closed has nothing to say.
            if !stdin.is_terminal() && rustix::fs::fstat(&stdin).is_ok() {
                io::copy(&mut stdin.lock(), &mut std::fs::File::create(file)?)?;
            }
            write_message(&mut stream, &[b"stored".to_vec()])?;
            ended(&read_message(&mut stream)?)
        }
        _ => ended(&answer),
    }
}

/// Has the run do something on the target, or say which program does it.
fn ask(what: &str, arguments: Vec<Vec<u8>>) -> io::Result<u8> {
    let mut stream = connect()?;
    let here = std::env::current_dir()?.into_os_string().into_vec();
    let mut message = vec![what.as_bytes().to_vec(), here];
    message.extend(arguments);
    write_message(&mut stream, &message)?;
    let answer = read_message(&mut stream)?;
    if answer.first().map(Vec::as_slice) == Some(b"run") {
        let mut words = answer.into_iter().skip(1).map(OsString::from_vec);
        let program = words.next().ok_or(io::ErrorKind::InvalidData)?;
        return Err(Command::new(program).args(words).exec());
    }
    ended(&answer)
}

/// `ended CODE TEXT`.
fn ended(answer: &[Vec<u8>]) -> io::Result<u8> {
    let [what, code, text] = answer else { return Err(io::ErrorKind::InvalidData.into()) };
    let code = std::str::from_utf8(code).ok().and_then(|code| code.parse().ok());
    let (true, Some(code)) = (what.as_slice() == b"ended", code) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if !text.is_empty() {
        complain(&String::from_utf8_lossy(text));
    }
    Ok(code)
}

fn write_message(to: &mut impl Write, message: &[Vec<u8>]) -> io::Result<()> {
    to.write_all(&encode(message)?)
}

fn read_message(from: &mut impl Read) -> io::Result<Vec<Vec<u8>>> {
    let mut size = [0; 4];
    from.read_exact(&mut size)?;
    let mut bytes = vec![0; fitting(u32::from_be_bytes(size))?];
    from.read_exact(&mut bytes)?;
    decode(&bytes)
}

/// The size of a message, where it is one that there can be.
pub(crate) fn fitting(size: u32) -> io::Result<usize> {
    let size = size as usize;
    if size > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {size} bytes")));
    }
    Ok(size)
}

/// A message as it is sent: its size, and each of its parts with its own before it.
pub(crate) fn encode(message: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    for part in message {
        let size = u32::try_from(part.len()).map_err(io::Error::other)?;
        bytes.extend(size.to_be_bytes());
        bytes.extend(part);
    }
    let size = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    fitting(size)?;
    bytes[..4].copy_from_slice(&size.to_be_bytes());
    Ok(bytes)
}

/// What is in a message that came without its size.
pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut message = Vec::new();
    while !bytes.is_empty() {
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
        let size = u32::from_be_bytes(*size) as usize;
        let part = rest.get(..size).ok_or(io::ErrorKind::InvalidData)?;
        message.push(part.to_vec());
        bytes = &rest[size..];
    }
    Ok(message)
}
