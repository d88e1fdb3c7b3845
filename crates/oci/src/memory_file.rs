//! Files in memory, for what is handed over whole: unlike a pipe they neither block nor break, whatever their reader does.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};

use rustix::fs::MemfdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One that holds this and is read from its beginning.
pub(crate) fn with(text: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("terrarium", MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file)
}

/// One that holds a value.
pub(crate) fn of(value: &impl Serialize) -> io::Result<File> {
    with(&serde_json::to_vec(value)?)
}

/// The value in one.
pub(crate) fn read<T: DeserializeOwned>(file: File) -> io::Result<T> {
    Ok(serde_json::from_reader(io::BufReader::new(file))?)
}
