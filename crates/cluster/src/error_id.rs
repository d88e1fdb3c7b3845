//! The stable names of errors: what scripts and bug reports tell them by, with the exit status and what to do. The page
//! docs/errors.md is rendered from this table.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::io;

use serde::{Deserialize, Serialize};

use crate::Error;

/// What kind of end it is: the program's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Something failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No cluster runs.
    NotRunning = 3,
    /// An input, a file or the installation is not as it must be.
    Refused = 4,
    /// Rights are missing.
    Rights = 5,
    /// A disk or the memory is full.
    Space = 6,
    /// The time was up; what was begun goes on.
    Time = 7,
    /// `exec`: the program cannot be run, as a shell says it.
    NotRunnable = 126,
    /// `exec`: the program was not found, as a shell says it.
    NotFound = 127,
    /// The user interrupted it (128 + SIGINT).
    Interrupted = 130,
}

impl Class {
    /// The exit status.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// Every exit status but 0, with what it means.
pub const CLASSES: &[(Class, &str)] = &[
    (Class::Failed, "failed"),
    (Class::Usage, "wrong usage"),
    (Class::NotRunning, "the cluster does not run (status, kubectl)"),
    (Class::Refused, "an input, a file or the installation is not as it must be; it was left as it is"),
    (Class::Rights, "rights are missing"),
    (Class::Space, "no space left"),
    (Class::Time, "not done in time; it goes on"),
    (Class::NotRunnable, "the program cannot be run (exec)"),
    (Class::NotFound, "the program was not found (exec)"),
    (Class::Interrupted, "interrupted"),
];

macro_rules! errors {
    ($($id:ident $name:literal $class:ident $means:literal => $hint:literal;)*) => {
        /// The stable name of an error.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum ErrorId {
            $(#[doc = $means] $id,)*
            /// Something else failed; also an error that this version does not know.
            #[default]
            #[serde(other)]
            Failed,
        }

        impl ErrorId {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$id,)* Self::Failed];

            const fn row(self) -> (&'static str, Class, &'static str, &'static str) {
                match self {
                    $(Self::$id => ($name, Class::$class, $means, $hint),)*
                    Self::Failed => ("failed", Class::Failed, "something else failed", ""),
                }
            }
        }
    };
}

errors! {
    Usage "usage" Usage "the command line is wrong" => "see `terrarium help`";
    NotRunning "not-running" NotRunning "no cluster is running" => "start one with `terrarium up`";
    AlreadyRunning "already-running" Refused "a cluster with another data directory has this sandbox"
        => "take that down first: `terrarium down`";
    ExecRunning "exec-running" Refused "`terrarium exec` runs a program under remedies of its own"
        => "wait for its end, or end it";
    Unjoinable "unjoinable" Refused "the kernel lets nobody join the user namespace in which the cluster runs"
        => "run the program in a Pod, or take the cluster down first: `terrarium down`";
    LeftOver "left-over" Refused "an earlier cluster was not taken down" => "take it down: `terrarium down`";
    RestartNeeded "restart-needed" Refused "what was asked for cannot change while the cluster runs"
        => "take it down first: `terrarium down`, then call `terrarium up` again";
    DataDirForeign "data-dir-foreign" Refused "the data directory holds files that are not terrarium's"
        => "name another or an empty one with --data-dir";
    DataDirNewer "data-dir-newer" Refused "the data directory was written by a newer terrarium"
        => "use that version or a newer one, or name another directory with --data-dir";
    DataDirUnreadable "data-dir-unreadable" Refused "terrarium.json in the data directory cannot be understood"
        => "put the file back from a backup, or name another directory with --data-dir";
    ApiPortUsed "api-port-used" Refused "another process listens on the API's port"
        => "end that process, or choose another port with `terrarium up --api-port PORT`";
    DnsPortUsed "dns-port-used" Refused "another process listens on port 53 of every address"
        => "end that process, or have it listen on one address only, such as 127.0.0.1";
    NoAddress "no-address" Refused "the machine has no address but loopback, and a node needs one"
        => "give a network interface an address";
    ServiceRange "service-range" Refused "the store's Services have addresses that none can have in this sandbox"
        => "use a sandbox like the one before, or `--remedy pod-links=flag` if Pods shared the node's network there; or begin with an empty store: `terrarium up --reset-store`";
    ComponentMissing "component-missing" Refused "a component's program is not installed"
        => "run `make build`, or set TERRARIUM_COMPONENTS to the directory that holds it";
    ComponentCorrupt "component-corrupt" Refused "a component's program is truncated, for another machine or not executable"
        => "install it anew: `make build`, or copy libexec/terrarium again";
    ComponentFails "component-fails" Failed "a component ended again and again before it was ready; all was undone"
        => "its log says why: `terrarium logs COMPONENT`";
    CgroupFilesFail "cgroup-files-fail" Failed "the added cgroup files of a program without a cluster are not served; all was undone"
        => "run it with the kernel's own files: without `--remedy cgroup-stats=fuse`";
    StoreCorrupt "store-corrupt" Refused "the cluster's store is damaged, truncated or gone"
        => "put it back from a backup; or set it aside and begin with an empty one: `terrarium up --reset-store`";
    KeyCorrupt "key-corrupt" Refused "a key or certificate that lasts with the data directory is damaged"
        => "put the file back from a backup, or begin anew with `terrarium down --purge`";
    CertificateExpired "certificate-expired" Refused "the cluster's CA is past its end"
        => "set the clock if it is wrong; else remove that file: the next `terrarium up` makes another with the same key";
    ClockWrong "clock-wrong" Refused "the cluster's CA is not valid yet: the clock was set back"
        => "set the clock; if it was wrong before, remove that file: the next `terrarium up` makes another with the same key";
    CertificateFailed "certificate-failed" Failed "a certificate could not be issued" => "";
    KubeconfigInvalid "kubeconfig-invalid" Refused "a file is not a kubeconfig; it was left as it is"
        => "mend or remove the file, or name another with KUBECONFIG; `terrarium kubectl` works without it";
    KubeconfigLocked "kubeconfig-locked" Refused "another program is changing the kubeconfig, or died while it did"
        => "try again; if nothing else is changing it, remove the lock file";
    ImageFormat "image-format" Refused "it is not an image archive"
        => "make one with `docker save`, `podman save` or `skopeo copy … oci-archive:FILE`";
    ImageTruncated "image-truncated" Refused "the image archive is damaged or ends too early" => "fetch or make it again";
    ImageDigest "image-digest" Refused "a blob of the image archive is not what its name says" => "fetch or make it again";
    ImageUnsafe "image-unsafe" Refused "the image archive holds what no image archive holds: links or paths that lead out, devices"
        => "do not use it unless you know who made it";
    ImageTooLarge "image-too-large" Refused "the image archive unpacks to far more than an image does"
        => "do not use it unless you know who made it; what is really that large can be pulled from a registry";
    ImageRefused "image-refused" Failed "containerd refuses the image archive" => "see `terrarium logs containerd`";
    NoLog "no-log" Refused "there is no such log" => "name one that there is; a cluster that was never started has none";
    NoRights "no-rights" Rights "rights over the sandbox are missing" => "start the sandbox with CAP_SYS_ADMIN and CAP_NET_ADMIN or let it make user namespaces; without either, root has a node without Pods, and `terrarium up --control-plane-only` needs no rights";
    AccessDenied "access-denied" Rights "a file or a port is not for this user"
        => "run it as a user who may use that, or name another: a directory with --data-dir, a port from 1024 on with --api-port";
    ReadOnly "read-only" Refused "a file system is read-only" => "name a directory that can be written with --data-dir";
    NoSpace "no-space" Space "a disk or the memory is full" => "make room on that file system and try again; nothing was lost";
    Timeout "timeout" Time "it was not done in time; it goes on"
        => "look with `terrarium status` and `terrarium logs COMPONENT`; `terrarium up` waits again, `terrarium down` stops it";
    Interrupted "interrupted" Interrupted "the user interrupted it" => "";
    TakenDown "taken-down" Failed "the cluster was taken down while somebody waited for it" => "start it again: `terrarium up`";
    SupervisorDied "supervisor-died" Failed "the supervisor ended without a word"
        => "see `terrarium logs supervisor`; `terrarium up` starts it again, `terrarium down` undoes what is left";
    ProcessStuck "process-stuck" Failed "a process does not end, not even by SIGKILL" => "try again; `terrarium down` goes on from there";
    ProgramMissing "program-missing" NotFound "the program to run was not found, or its interpreter"
        => "name it by its path, or by a name that is in PATH";
    ProgramFails "program-fails" NotRunnable "the program to run is not executable, or for another machine"
        => "see its mode and its kind: `ls -l` and `file`";
    RulesWrong "rules-wrong" Refused "the rules for system calls cannot be read, or one of them cannot be followed"
        => "mend the file; docs/interception.md says what rules there are";
    TraceRefused "trace-refused" Refused "no program can be traced here"
        => "run it without --intercept, or where ptrace and seccomp are allowed and nothing else traces it";
    ApiUnreachable "api-unreachable" Failed "the API server does not answer" => "see `terrarium status` and `terrarium logs kube-server`";
    GapOpen "gap-open" Failed "something that this sandbox lacks could not be made up for; all was undone"
        => "see `terrarium doctor`; docs/gaps.md has the gaps and their remedies";
    UndoFailed "undo-failed" Failed "a change to the sandbox could not be undone" => "try again: `terrarium down` goes on from there";
}

impl ErrorId {
    /// The name that is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The kind of end.
    #[must_use]
    pub fn class(self) -> Class {
        self.row().1
    }

    /// What to do; empty where there is nothing to say.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        self.row().3
    }

    /// The name of any error, told by the first of its causes that has one.
    #[must_use]
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<Error>() {
                return error.id();
            }
            if let Some(id) = error.downcast_ref::<terrarium_intercept::Error>().and_then(Self::of_interception) {
                return id;
            }
            if let Some(id) = error.downcast_ref::<io::Error>().and_then(Self::of_io) {
                return id;
            }
            cause = error.source();
        }
        Self::Failed
    }

    fn of_interception(error: &terrarium_intercept::Error) -> Option<Self> {
        use terrarium_intercept::Error;
        match error {
            Error::Rule { .. } => Some(Self::RulesWrong),
            Error::Unreadable { source, .. } => Self::of_io(source).or(Some(Self::RulesWrong)),
            Error::Program { source, .. } => Some(Self::of_program(source)),
            Error::TracedAlready { .. } | Error::Refused { .. } | Error::Filter { .. } => Some(Self::TraceRefused),
            Error::Unanswered | Error::Architecture => Some(Self::TraceRefused),
            Error::Start { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(Self::TraceRefused),
            // Their causes tell.
            Error::Start { .. } | Error::Stats { .. } => None,
        }
    }

    /// The name of what keeps a program from being run, as a shell tells it.
    pub(crate) fn of_program(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::ProgramMissing } else { Self::ProgramFails }
    }

    /// The name of a file operation's error, if it has one of its own.
    pub(crate) fn of_io(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Self::NoSpace),
            io::ErrorKind::PermissionDenied => Some(Self::AccessDenied),
            io::ErrorKind::AddrInUse => Some(Self::ApiPortUsed),
            io::ErrorKind::ReadOnlyFilesystem => Some(Self::ReadOnly),
            _ => None,
        }
    }

    /// The name that the words of a program tell, which are all there is of its error.
    pub(crate) fn of_words(words: &str) -> Option<Self> {
        let words = words.to_lowercase();
        let has = |part: &str| words.contains(part);
        if has("no space left on device") || has("database or disk is full") {
            Some(Self::NoSpace)
        } else if has("database disk image is malformed") || has("file is not a database") {
            Some(Self::StoreCorrupt)
        } else {
            None
        }
    }
}

impl fmt::Display for ErrorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Renders the table as the Markdown page `docs/errors.md`.
#[must_use]
pub fn render() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Generated from `crates/cluster/src/error_id.rs` by `UPDATE_DOCS=1 cargo test -p terrarium-cluster --test errors`; do\n\
         not edit.\n\n\
         An error is printed on stderr as `error: WHAT AND WHY [ID]`, with a line `hint: WHAT TO DO` after it. IDs and exit\n\
         statuses stay as they are from version to version; the words may change.\n\n\
         | exit status | means |\n|---|---|\n| 0 | done |\n",
    );
    for (class, means) in CLASSES {
        let _ = writeln!(page, "| {} | {means} |", class.exit_code());
    }
    page += "\n| ID | exit status | what it says | what to do |\n|---|---|---|---|\n";
    for id in ErrorId::ALL {
        let (name, class, means, hint) = id.row();
        let _ = writeln!(page, "| `{name}` | {} | {means} | {hint} |", class.exit_code());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_printed_as_they_cross_to_another_process() {
        for id in ErrorId::ALL {
            assert_eq!(serde_json::to_string(id).unwrap(), format!("\"{id}\""));
            assert!(CLASSES.iter().any(|(class, _)| *class == id.class()), "{id}");
        }
        assert_eq!(serde_json::from_str::<ErrorId>("\"of-tomorrow\"").unwrap(), ErrorId::Failed);
    }

    #[test]
    fn an_error_is_told_by_its_causes() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(ErrorId::of(&full()), ErrorId::NoSpace);
        assert_eq!(ErrorId::of(&Error::io("write", "/x")(full())), ErrorId::NoSpace);
        let journal = terrarium_remedies::Error::Journal { path: "/x".into(), source: full() };
        assert_eq!(ErrorId::of(&Error::Remedy(journal)), ErrorId::NoSpace);
        let component = |log: &str| Error::Component { component: "c".into(), why: "it ended".into(), log: log.into() };
        assert_eq!(component("x: No space left on device\n").id(), ErrorId::NoSpace);
        assert_eq!(component("database disk image is malformed\n").id(), ErrorId::StoreCorrupt);
        assert_eq!(component("panic\n").id(), ErrorId::ComponentFails);
        assert_eq!(ErrorId::of(&io::Error::other("x")), ErrorId::Failed);
        let rule = terrarium_intercept::Error::Rule { path: "/x".into(), at: "uname".into(), why: "x".into() };
        assert_eq!(ErrorId::of(&rule), ErrorId::RulesWrong);
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(ErrorId::of(&terrarium_intercept::Error::Refused { source: denied() }), ErrorId::TraceRefused);
        let start = |source| terrarium_intercept::Error::Start { doing: "trace", source };
        assert_eq!(ErrorId::of(&start(denied())), ErrorId::TraceRefused);
        assert_eq!(ErrorId::of(&start(full())), ErrorId::NoSpace);
        let in_use = || io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(Error::io("listen on", "port 6443")(in_use()).id(), ErrorId::ApiPortUsed);
    }

    #[test]
    fn files_that_are_anothers_are_told_from_missing_rights_over_the_sandbox() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Error::io("open", "/x")(denied()).id(), ErrorId::AccessDenied);
        assert_eq!(ErrorId::of(&denied()), ErrorId::AccessDenied);
        let journal = terrarium_remedies::Error::Journal { path: "/x".into(), source: denied() };
        assert_eq!(Error::Remedy(journal).id(), ErrorId::AccessDenied);
        let doing = "make a mount namespace".to_owned();
        let namespace = terrarium_remedies::Error::Namespace { doing, source: denied() };
        assert_eq!(Error::Remedy(namespace).id(), ErrorId::NoRights);
    }

    #[test]
    fn a_program_that_cannot_be_run_is_told_as_a_shell_does() {
        let program = |kind: io::ErrorKind| Error::Program { path: "./x".into(), source: kind.into() }.id();
        assert_eq!(program(io::ErrorKind::PermissionDenied), ErrorId::ProgramFails);
        assert_eq!(program(io::ErrorKind::PermissionDenied).class().exit_code(), 126);
        assert_eq!(program(io::ErrorKind::NotFound), ErrorId::ProgramMissing);
        assert_eq!(program(io::ErrorKind::NotFound).class().exit_code(), 127);
        let component = Error::io("run", "/x")(io::ErrorKind::PermissionDenied.into());
        assert_eq!(component.id(), ErrorId::ComponentCorrupt);
    }
}
