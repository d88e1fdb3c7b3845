use std::io;
use std::path::PathBuf;

/// Why a program could not be run with its system calls intercepted. The messages say what failed, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of rules cannot be read.
    #[error("cannot read the rules {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of rules is not one.
    #[error("{}: {at}: {why}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// Which rule of it, and which of its fields, such as `redirect[0].to`.
        at: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// Something that the tracer needs cannot be had.
    #[error("cannot {doing}")]
    Start {
        /// What, as a verb phrase.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The program would have a second tracer.
    #[error(
        "cannot trace the program: process {tracer} traces this one already, and a process has one tracer; run it outside \
         of strace, a debugger, or another interception"
    )]
    TracedAlready {
        /// Who.
        tracer: i32,
    },
    /// The kernel, or a filter of the container's, allows no tracing.
    #[error(
        "cannot trace the program: ptrace is refused here; allow it in the sandbox's seccomp profile, or give this process \
         CAP_SYS_PTRACE"
    )]
    Refused {
        /// What the kernel said.
        source: io::Error,
    },
    /// The program's filter cannot be installed.
    #[error("cannot install a seccomp filter in the program; allow seccomp in the sandbox's own profile")]
    Filter {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's filters do not stop a program for its tracer.
    #[error("a seccomp filter does not stop a traced program here: interception does not work in this sandbox")]
    Unanswered,
    /// The program itself cannot be executed.
    #[error("cannot run {}", path.display())]
    Program {
        /// What was given as its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The figures cannot be written.
    #[error("cannot write the figures {}", path.display())]
    Stats {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This machine is none of those that are known.
    #[error("interception is for x86-64 only, and this machine is {}", std::env::consts::ARCH)]
    Architecture,
}

impl Error {
    pub(crate) fn start(doing: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::Start { doing, source: errno.into() }
    }
}
