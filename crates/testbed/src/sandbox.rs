//! Sandboxes as their users see them.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::unistd::geteuid;

use crate::{
    config::{Bind, Config},
    error::{Error, IoContext, Result},
    exec::Exec,
    gvisor::{Gvisor, Platform, runsc},
    layer::{Layer, RootKind},
    network::Slot,
    process::{Process, boot_id},
    record::{Files, Record, State, check_name, now},
    rights::{Deny, Privilege},
    rootfs,
    store::{Claim, Claimed, Store, Swept},
    tool::{Interrupt, require, spawn, succeed, tail, wait},
};

/// How a sandbox shall be.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    name: Option<String>,
    gvisor: Gvisor,
    platform: Platform,
    privilege: Privilege,
    deny: BTreeSet<Deny>,
    root: RootKind,
    binds: Vec<Bind>,
    env: Vec<(String, String)>,
    interrupt: Interrupt,
}

/// A running sandbox. Dropping it removes it, unless it is [kept](Builder::start_kept).
#[derive(Debug)]
pub struct Sandbox {
    store: Store,
    record: Record,
    directory: PathBuf,
    /// None for a kept sandbox: whoever stops it claims it then.
    claim: Option<Claim>,
}

/// What [`Builder::start_kept`] found.
#[derive(Debug)]
pub enum Kept {
    /// It was made.
    Started(Sandbox),
    /// One of that name runs already, whatever its options.
    AlreadyRunning(Sandbox),
}

impl Builder {
    /// Names it; else it gets a name that no other has.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses the gVisor build.
    pub fn gvisor(mut self, gvisor: Gvisor) -> Self {
        self.gvisor = gvisor;
        self
    }

    /// Chooses how gVisor catches system calls.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Chooses the rights inside.
    pub fn privilege(mut self, privilege: Privilege) -> Self {
        self.privilege = privilege;
        self
    }

    /// Takes rights away; adds to those that earlier calls took.
    pub fn deny(mut self, rights: impl IntoIterator<Item = Deny>) -> Self {
        self.deny.extend(rights);
        self
    }

    /// Chooses what lies under the 9p root on the host.
    pub fn root(mut self, root: RootKind) -> Self {
        self.root = root;
        self
    }

    /// Shows `source` of the host at `destination`, writable.
    pub fn bind(self, source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        self.mount(Bind { source: source.into(), destination: destination.into(), read_only: false })
    }

    /// Shows `source` of the host at `destination`, read-only.
    pub fn bind_read_only(self, source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        self.mount(Bind { source: source.into(), destination: destination.into(), read_only: true })
    }

    /// Adds a bind.
    pub fn mount(mut self, bind: Bind) -> Self {
        self.binds.push(bind);
        self
    }

    /// Sets a variable for every program inside.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Lets a signal handler stop the start.
    pub fn interrupt(mut self, interrupt: Interrupt) -> Self {
        self.interrupt = interrupt;
        self
    }

    /// Starts a sandbox that lives as long as the value returned.
    pub fn start(self) -> Result<Sandbox> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unnamed = || format!("run-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = self.name.clone().unwrap_or_else(unnamed);
        match self.begin(name, false)? {
            Kept::Started(sandbox) => Ok(sandbox),
            Kept::AlreadyRunning(sandbox) => {
                Err(Error::Owned { name: sandbox.name().to_owned(), owner: sandbox.record.owner })
            }
        }
    }

    /// Starts a sandbox that lives until it is stopped, or finds that one of its name runs.
    pub fn start_kept(self) -> Result<Kept> {
        let name = self.name.clone().unwrap_or_else(|| "terrarium".into());
        self.begin(name, true)
    }

    fn begin(self, name: String, keep: bool) -> Result<Kept> {
        check_host(self.gvisor)?;
        check_name(&name)?;
        let store = Store::open()?;
        store.sweep_all()?.warn();
        let mut builder = self;
        for bind in &mut builder.binds {
            bind.source = fs::canonicalize(&bind.source).io("bind", &bind.source)?;
        }
        let tree = rootfs::prepare(store.cache(), || store.trees_in_use(), &builder.interrupt)?;
        let draft = Record {
            disk: store.disk(&name),
            name,
            keep,
            owner: std::process::id(),
            boot: boot_id(),
            created: now(),
            gvisor: builder.gvisor,
            platform: builder.platform,
            privilege: builder.privilege,
            deny: builder.deny.iter().copied().collect(),
            root: builder.root,
            tree: Some(tree.clone()),
            runsc: builder.gvisor.runsc()?,
            slot: Slot::default(),
            sandbox: None,
        };
        let (claim, mut record) = match store.claim(&draft, &builder.interrupt)? {
            Claimed::New(claim, record) => (claim, record),
            Claimed::Running(record) => return Ok(Kept::AlreadyRunning(Sandbox::kept(store, record))),
        };
        match builder.make(&claim, &mut record, &tree) {
            Ok(()) => {}
            Err(error) => {
                if let Err(leftovers) = store.remove(claim, Some(&record)) {
                    eprintln!("testbed: {leftovers}");
                }
                return Err(error);
            }
        }
        let directory = claim.directory.clone();
        let claim = if keep { None } else { Some(claim) };
        Ok(Kept::Started(Sandbox { store, record, directory, claim }))
    }

    /// The steps of a start. What they make is removed by the caller when one fails.
    fn make(&self, claim: &Claim, record: &mut Record, tree: &Path) -> Result<()> {
        fs::create_dir_all(&record.disk).io("create", &record.disk)?;
        let layer = Layer::make(record, tree, &self.interrupt)?;
        record.slot.create(&self.interrupt)?;
        self.write_bundle(claim, record)?;
        record.sandbox = Some(self.boot(claim, record, &layer)?);
        if record.deny.contains(&Deny::Fuse) {
            let root = Files(&claim.directory).root();
            succeed(&mut Exec::as_root(record, &root, remove_fuse(&record.deny)), &self.interrupt)?;
        }
        claim.write(record)
    }

    fn write_bundle(&self, claim: &Claim, record: &Record) -> Result<()> {
        let bundle = Files(&claim.directory).bundle();
        fs::create_dir_all(&bundle).io("create", &bundle)?;
        let config = Config {
            privilege: record.privilege,
            deny: &record.deny,
            rootfs: &record.disk.join("rootfs"),
            network_namespace: &record.slot.namespace(),
            binds: &self.binds,
            env: &self.env,
        };
        let path = bundle.join("config.json");
        fs::write(&path, format!("{:#}\n", config.json())).io("write", path)
    }

    /// Starts gVisor with the sandbox's init and returns gVisor's process.
    fn boot(&self, claim: &Claim, record: &Record, layer: &Layer) -> Result<Process> {
        let files = Files(&claim.directory);
        let log = File::create(files.log()).io("create", files.log())?;
        let mut command = runsc(record, &files.root());
        command.args(["run", "--detach", "--pid-file"]).arg(files.pid()).arg("--bundle").arg(files.bundle());
        command.arg(record.id());
        let mut command = layer.around(&command);
        // The init keeps these streams: they must be nothing that a caller waits on.
        command.stdout(log.try_clone().io("open", files.log())?).stderr(log);
        let (mut child, name) = spawn(&mut command)?;
        let status = wait(&mut child, &self.interrupt)?;
        let said = || tail(&fs::read_to_string(files.log()).unwrap_or_default(), 20);
        if !status.success() {
            return Err(Error::Tool { command: name, status, output: said() });
        }
        let pid = fs::read_to_string(files.pid()).io("read", files.pid())?;
        let process = pid.trim().parse().ok().and_then(Process::of);
        process.ok_or_else(|| Error::Tool {
            command: name,
            status,
            output: format!("gVisor ended at once\n{}", said()),
        })
    }
}

impl Sandbox {
    /// A sandbox with the default choices.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The running sandbox called `name`, if there is one. It stays when this value is dropped.
    pub fn find(name: &str) -> Result<Option<Self>> {
        check_name(name)?;
        let store = Store::open()?;
        let running = store.find(name)?.filter(|record| record.pid().is_some());
        Ok(running.map(|record| Self::kept(store, record)))
    }

    fn kept(store: Store, record: Record) -> Self {
        let directory = store.directory(&record.name);
        Self { store, record, directory, claim: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Its address, which the host reaches.
    pub fn address(&self) -> Ipv4Addr {
        self.record.address()
    }

    /// The host's address, which the sandbox reaches.
    pub fn gateway(&self) -> Ipv4Addr {
        self.record.gateway()
    }

    /// All that is written down about it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// A program to run in it.
    pub fn command<I, S>(&self, argv: I) -> Exec
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Exec::new(&self.record, &Files(&self.directory).root(), argv.into_iter().map(Into::into).collect())
    }

    /// Runs a program to its end, without input, and returns its status and output.
    pub fn exec<I, S>(&self, argv: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.command(argv).output()
    }

    /// Starts a program with its three streams as pipes.
    pub fn spawn<I, S>(&self, argv: I) -> Result<Child>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.command(argv).spawn()
    }

    /// Ends and removes it, and says what could not be removed.
    pub fn stop(mut self) -> Result<()> {
        match self.claim.take() {
            Some(claim) => self.store.remove(claim, Some(&self.record)),
            None => match self.store.take(&self.record.name, &Interrupt::default())? {
                Some((claim, record)) => self.store.remove(claim, record.as_ref()),
                None => Ok(()),
            },
        }
    }

    /// Ends and removes the sandbox called `name`, running or not; whether there was one.
    pub fn stop_named(name: &str) -> Result<bool> {
        check_name(name)?;
        let store = Store::open()?;
        match store.take(name, &Interrupt::default())? {
            Some((claim, record)) => store.remove(claim, record.as_ref()).map(|()| true),
            None => Ok(false),
        }
    }
}

/// gVisor's /dev has the device whatever the configuration says, and so has devtmpfs, which is one for all who mount it.
fn remove_fuse(deny: &[Deny]) -> &'static str {
    if deny.contains(&Deny::Mount) {
        "rm -f /dev/fuse" // nobody mounts a devtmpfs, and in 2026-07 not even this script could
    } else {
        "rm -f /dev/fuse && unshare -m sh -c 'mount -t devtmpfs dev /mnt && rm -f /mnt/fuse'"
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take()
            && let Err(error) = self.store.remove(claim, Some(&self.record))
        {
            eprintln!("testbed: {error}");
        }
    }
}

/// Fails with the reason when this host cannot run sandboxes of `gvisor`: rights, runsc, host programs.
pub fn check_host(gvisor: Gvisor) -> Result<()> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    gvisor.runsc()?;
    require("ip", "iproute2")?;
    require("setpriv", "util-linux")
}

/// Every sandbox of this host and how it stands.
pub fn list() -> Result<Vec<(Record, State)>> {
    Store::open()?.list()
}

/// Removes the sandboxes whose owners were killed, and links that a killed start made too late for its record.
pub fn sweep() -> Result<Swept> {
    Store::open()?.sweep_all()
}
