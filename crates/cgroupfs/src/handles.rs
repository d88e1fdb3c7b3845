//! Open files: what one says is fixed when it is read from its beginning, as kernfs does it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open things of one kind by their numbers.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    table: Mutex<Table<T>>,
}

#[derive(Debug)]
struct Table<T> {
    open: HashMap<u64, Arc<T>>,
    next: u64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { table: Mutex::new(Table { open: HashMap::new(), next: 1 }) }
    }
}

impl<T> Handles<T> {
    /// The number of a newly opened one.
    pub fn open(&self, thing: T) -> u64 {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.open.insert(number, Arc::new(thing));
        number
    }

    /// An open one.
    pub fn get(&self, number: u64) -> Option<Arc<T>> {
        self.table().open.get(&number).cloned()
    }

    /// It is closed.
    pub fn close(&self, number: u64) {
        self.table().open.remove(&number);
    }

    fn table(&self) -> MutexGuard<'_, Table<T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an open file says.
#[derive(Debug, Default)]
pub(crate) struct Text {
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    content: Arc<[u8]>,
    /// Nobody has read it yet.
    is_new: bool,
}

impl Text {
    /// Fixed when the file was opened.
    pub fn new(content: Vec<u8>) -> Self {
        Self { said: Some(Said { content: content.into(), is_new: true }) }
    }

    /// How long it is, if that is known.
    pub fn len(&self) -> Option<u64> {
        self.said.as_ref().map(|said| said.content.len() as u64)
    }

    /// What is to be read from there. None at the beginning, when it was read from there before: it is to be told anew.
    pub fn at(&mut self, offset: u64) -> Option<Arc<[u8]>> {
        let said = self.said.as_mut().filter(|said| said.is_new || offset > 0)?;
        said.is_new = false;
        Some(Arc::clone(&said.content))
    }

    /// It is told anew.
    pub fn renew(&mut self, content: Vec<u8>) -> Arc<[u8]> {
        let content: Arc<[u8]> = content.into();
        self.said = Some(Said { content: Arc::clone(&content), is_new: false });
        content
    }
}

/// The part of a content that a read gets.
pub(crate) fn part(content: &[u8], offset: u64, size: u32) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let end = start.saturating_add(size as usize).min(content.len());
    &content[start..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_fixed_is_read_once_from_the_beginning() {
        let mut text = Text::new(b"one".to_vec());
        assert_eq!(text.at(0).as_deref(), Some(b"one".as_slice()));
        assert_eq!(text.at(2).as_deref(), Some(b"one".as_slice()));
        assert_eq!(text.at(0), None);
        text.renew(b"three".to_vec());
        assert_eq!((text.len(), text.at(4).is_some(), text.at(0)), (Some(5), true, None));
    }

    proptest! {
        #[test]
        fn parts_make_up_the_whole(content: Vec<u8>, size in 1_u32..9) {
            let mut read = Vec::new();
            loop {
                let part = part(&content, read.len() as u64, size);
                if part.is_empty() {
                    break;
                }
                read.extend_from_slice(part);
            }
            prop_assert_eq!(read, content);
        }

        #[test]
        fn no_offset_is_too_large(content: Vec<u8>, offset: u64, size: u32) {
            prop_assert!(part(&content, offset, size).len() <= content.len());
        }
    }
}
