//! What was told to those who read a file or a directory, so that each gets one state of it, as from kernfs.
//!
//! Readers are told apart by their threads. One that goes on as another thread, as programs in Go do, gets what was told
//! last; not what that thread was told when it came by before, which is why nothing is read on from for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::recent::MOMENT;

/// So many readers at a time get each their own.
const READERS: usize = 64;
/// How long somebody reads on from what was told: longer than a reader is held up, shorter than cAdvisor stays away.
const READ_ON: Duration = Duration::from_secs(5);

/// The readers of one file (of bytes) or directory (of entries), the latest last.
#[derive(Debug)]
pub(crate) struct Readers<T>(VecDeque<Reader<T>>);

#[derive(Debug)]
struct Reader<T> {
    thread: u32,
    content: Arc<[T]>,
    told: Instant,
}

impl<T> Default for Readers<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Readers<T> {
    /// A thread is told that, from its beginning.
    pub fn tell(&mut self, thread: u32, content: Arc<[T]>) {
        self.0.retain(|other| other.thread != thread && other.told.elapsed() < READ_ON);
        self.0.push_back(Reader { thread, content, told: Instant::now() });
        if self.0.len() > READERS {
            self.0.pop_front();
        }
    }

    /// What a thread that does not begin is to get from there. None if it is to be told anew.
    pub fn at(&self, thread: u32, offset: u64) -> Option<Arc<[T]>> {
        let latest = || self.0.back().filter(|reader| reader.told.elapsed() < READ_ON);
        let reader = (offset > 0).then(|| self.own(thread, READ_ON).or_else(latest))??;
        Some(Arc::clone(&reader.content))
    }

    /// What a thread was told a moment ago.
    pub fn just_told(&self, thread: u32) -> Option<Arc<[T]>> {
        self.own(thread, MOMENT).map(|reader| Arc::clone(&reader.content))
    }

    /// The length of the longest that is known to have been told.
    pub fn longest(&self) -> usize {
        self.0.iter().map(|reader| reader.content.len()).max().unwrap_or_default()
    }

    fn own(&self, thread: u32, within: Duration) -> Option<&Reader<T>> {
        self.0.iter().find(|reader| reader.thread == thread && reader.told.elapsed() < within)
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

    fn text(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn each_reads_on_from_what_it_was_told() {
        let mut readers = Readers::default();
        assert_eq!((readers.at(1, 5), readers.just_told(1)), (None, None));
        readers.tell(1, text("one"));
        readers.tell(2, text("two"));
        assert_eq!((readers.at(1, 3), readers.at(2, 2)), (Some(text("one")), Some(text("two"))));
        assert_eq!(readers.at(9, 1), Some(text("two")), "one that goes on as another thread");
        assert_eq!(readers.at(1, 0), None, "one that begins anew");
        readers.0.iter_mut().for_each(|reader| reader.told += READ_ON);
        assert_eq!((readers.just_told(1), readers.just_told(9)), (Some(text("one")), None));
        for thread in 3..3 + READERS as u32 {
            readers.tell(thread, text("more"));
        }
        assert_eq!(readers.at(1, 3), Some(text("more")), "there were too many others");
        readers.0.iter_mut().for_each(|reader| reader.told = Instant::now() - MOMENT);
        assert_eq!((readers.just_told(66), readers.at(66, 1)), (None, Some(text("more"))));
    }

    #[test]
    fn nobody_reads_on_from_what_a_thread_was_told_long_ago() {
        let mut readers = Readers::default();
        readers.tell(7, text("1048576000"));
        readers.0.iter_mut().for_each(|reader| reader.told -= READ_ON);
        assert_eq!((readers.at(7, 4), readers.at(8, 4), readers.longest()), (None, None, 10));
        readers.tell(8, text("4096"));
        assert_eq!(readers.at(7, 4), Some(text("4096")), "it began as the other");
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
