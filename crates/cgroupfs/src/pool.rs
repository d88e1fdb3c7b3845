//! A few threads for what takes longer, so that the others need not wait.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs in turn.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// So many threads, until the last clone of this is gone.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads {
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new().name(format!("pool-{index}")).stack_size(crate::STACK);
            thread.spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Has it done by the next free one; or here and now, if none is left.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(unsent) = self.jobs.send(Box::new(job)) {
            (unsent.0)();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held for taking the job only.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
