//! Containers, and what can be done with one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use oci_spec::runtime::{Hooks, LinuxResources, Process, State};

use crate::create::{CreateOptions, Creation, state};
use crate::exec::{Exec, ExecOptions};
use crate::init::unmount;
use crate::process::ProcessRef;
use crate::signal::Signal;
use crate::spec::Config;
use crate::state::{Saved, StateDir};
use crate::stats::Stats;
use crate::{ContainerId, Error, Result, Status, hooks, state as state_dir};

/// How long a process may take to end after SIGKILL.
const END: Duration = Duration::from_secs(10);

/// All containers below one directory.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
}

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    id: ContainerId,
    directory: StateDir,
    /// None if it is being created, or its creation was cut off.
    saved: Option<Saved>,
    warnings: Vec<String>,
}

impl Runtime {
    /// That of the containers whose state is in this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Creates a container from a bundle. It forks, so the caller must have one thread; the caller becomes a subreaper
    /// (prctl(2)) and the container's first process its child.
    ///
    /// # Errors
    /// The configuration cannot be followed, a hook fails, or the kernel refuses. Nothing of the container is left then.
    pub fn create(&self, id: &ContainerId, bundle: &Path, options: &CreateOptions) -> Result<Container> {
        let config = Config::load(bundle)?;
        let (directory, lock) = StateDir::create(&self.root, id)?;
        let creation = match Creation::new(id, &config, options, &directory, &lock) {
            Ok(creation) => creation,
            Err(error) => {
                directory.remove()?;
                return Err(error);
            }
        };
        let (saved, warnings) = creation.run()?;
        Ok(Container { id: id.clone(), directory, saved: Some(saved), warnings })
    }

    /// A container that is there.
    ///
    /// # Errors
    /// [`Error::NoContainer`]; or what is saved of it cannot be read.
    pub fn load(&self, id: &ContainerId) -> Result<Container> {
        let directory = StateDir::of(&self.root, id);
        if !directory.exists() {
            return Err(Error::NoContainer(id.clone()));
        }
        let saved = directory.load()?;
        Ok(Container { id: id.clone(), directory, saved, warnings: Vec::new() })
    }

    /// All containers, by name. One that goes meanwhile is left out.
    ///
    /// # Errors
    /// What is saved of one cannot be read.
    pub fn list(&self) -> Result<Vec<Container>> {
        let loaded = state_dir::list(&self.root)?.into_iter().map(|id| self.load(&id));
        loaded.filter(|container| !matches!(container, Err(Error::NoContainer(_)))).collect()
    }
}

impl Container {
    /// Its name.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// What is done in another way than the configuration asked for.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How it is now.
    pub fn status(&self) -> Status {
        let Some(saved) = &self.saved else {
            return if self.directory.is_locked() { Status::Creating } else { Status::Stopped };
        };
        if !saved.init.lives() {
            return Status::Stopped;
        }
        if self.directory.has_fifo() {
            return Status::Created;
        }
        if saved.cgroups.is_frozen().unwrap_or(false) { Status::Paused } else { Status::Running }
    }

    /// Its first process, unless that has ended.
    pub fn init(&self) -> Option<Pid> {
        let saved = self.saved.as_ref()?;
        saved.init.lives().then(|| saved.init.pid())
    }

    /// The process to wait for to learn how the first one ended: another one only where a keeper stands for it.
    pub fn waited_for(&self) -> Option<Pid> {
        self.saved.as_ref().map(Saved::waited_for)
    }

    /// Its root file system, bundle, and when it was created.
    pub(crate) fn saved(&self) -> Option<&Saved> {
        self.saved.as_ref()
    }

    /// Whether somebody has removed it since it was loaded.
    pub(crate) fn is_gone(&self) -> bool {
        self.saved.is_some() && self.directory.load().is_ok_and(|saved| saved.is_none())
    }

    /// Its state as the specification has it.
    ///
    /// # Errors
    /// What is saved of it cannot be read.
    pub fn state(&self) -> Result<State> {
        let Some(saved) = &self.saved else {
            let unfinished = self.directory.load_unfinished()?;
            let init = unfinished.as_ref().and_then(|unfinished| unfinished.init).filter(|init| init.lives());
            let mut state = State::default();
            state.set_version(crate::spec::VERSION.to_owned()).set_id(self.id.to_string());
            state.set_status(self.status().in_specification()).set_pid(init.map(|init| init.pid().as_raw()));
            let (bundle, annotations) = unfinished.map(|one| (one.bundle, one.annotations)).unwrap_or_default();
            state.set_bundle(bundle).set_annotations(annotations);
            return Ok(state);
        };
        state(&self.id, &self.config(saved)?, self.status(), self.init())
    }

    /// Lets its first process become its program. Where there are hooks this waits until it has.
    ///
    /// # Errors
    /// [`Error::Status`] if it is not created and waiting; or, where there are hooks, it says that it cannot.
    pub fn start(&mut self) -> Result<()> {
        let _lock = self.directory.lock()?;
        let saved = self.created("start")?;
        if self.status() != Status::Created {
            return Err(self.wrong_status("start"));
        }
        let config = self.config(saved)?;
        config.process()?;
        let released = self.directory.release()?;
        let hooks = config.hooks(Hooks::poststart);
        if hooks.is_empty() && config.hooks(Hooks::start_container).is_empty() {
            drop(released);
        } else if let Err(error) = released.for_program() {
            // It is about to.
            saved.init.ends_within(END);
            return Err(error);
        }
        let state = state(&self.id, &config, Status::Running, self.init())?;
        let failed = hooks::run_all("poststart", hooks, &state);
        self.warnings.extend(failed);
        Ok(())
    }

    /// Sends a signal to its first process, or to all of them.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it has ended, unless the signal is for all: others may still be there.
    pub fn kill(&self, signal: Signal, all: bool) -> Result<()> {
        if all {
            let pids = self.pids()?;
            pids.into_iter().try_for_each(|pid| signal.send_if_there(pid))?;
            self.thaw_after(signal)?;
            return match &self.saved {
                // Those forked meanwhile, too.
                Some(saved) if signal == Signal::KILL => saved.cgroups.kill(),
                _ => Ok(()),
            };
        }
        let pid = self.init().ok_or_else(|| Error::NotRunning(self.id.clone()))?;
        signal.send(pid)?;
        self.thaw_after(signal)
    }

    /// Those that are frozen only end when they go on.
    fn thaw_after(&self, signal: Signal) -> Result<()> {
        match &self.saved {
            Some(saved) if signal == Signal::KILL => thaw(saved),
            _ => Ok(()),
        }
    }

    /// Removes it and all that was made for it. One that runs is killed if that is forced.
    ///
    /// # Errors
    /// [`Error::Status`] if it runs; or the kernel refuses. Doing it again goes on from there.
    pub fn delete(&mut self, force: bool) -> Result<()> {
        // A start that waits for a hook has the lock, and ends with what it waits for.
        if force && let Some(saved) = &self.saved {
            end(saved)?;
        }
        let _lock = self.directory.lock()?;
        // Another one may have created or deleted it meanwhile.
        if !self.directory.exists() {
            return Err(Error::NoContainer(self.id.clone()));
        }
        if self.saved.is_none() {
            self.saved = self.directory.load()?;
        }
        let Some(saved) = self.saved.clone() else { return self.delete_unfinished() };
        if force {
            end(&saved)?;
        } else if saved.init.lives() {
            return Err(self.wrong_status("delete"));
        }
        let gone = |process: ProcessRef| {
            let ended = process.ends_within(END);
            if ended {
                Ok(())
            } else {
                Err(Error::other(format!("wait for process {}", process.pid()), "it does not end"))
            }
        };
        gone(saved.init)?;
        // It ends with the first process.
        saved.keeper.map_or(Ok(()), gone)?;
        // Those that share a pid namespace with others do not end with the first process.
        saved.cgroups.kill()?;
        saved.cgroups.delete()?;
        let config = self.config(&saved);
        if let Some(before) = saved.mounts_before {
            unmount(&saved.rootfs, before)?;
        }
        self.directory.remove()?;
        let config = config?;
        let state = state(&self.id, &config, Status::Stopped, None)?;
        self.warnings.extend(hooks::run_all("poststop", config.hooks(Hooks::poststop), &state));
        Ok(())
    }

    /// Removes what a creation left that was cut off.
    fn delete_unfinished(&self) -> Result<()> {
        if let Some(unfinished) = self.directory.load_unfinished()? {
            if let Some(init) = unfinished.init.filter(|init| init.lives()) {
                Signal::KILL.send_if_there(init.pid())?;
            }
            unfinished.cgroups.kill()?;
            unfinished.cgroups.delete()?;
            if let Some(before) = unfinished.mounts_before {
                unmount(&unfinished.rootfs, before)?;
            }
        }
        self.directory.remove()
    }

    /// Starts a further process, as a child of the caller, which must have one thread and becomes a subreaper.
    ///
    /// # Errors
    /// The process cannot be had as it is described, or the kernel refuses.
    pub fn exec(&self, process: &Process, options: &ExecOptions) -> Result<Pid> {
        let saved = self.created("exec in")?;
        if !matches!(self.status(), Status::Created | Status::Running) {
            return Err(self.wrong_status("exec in"));
        }
        let config = self.config(saved)?;
        Exec { config: &config, saved, directory: &self.directory, process, options }.run()
    }

    /// The process that the configuration has, as a beginning for another.
    pub(crate) fn own_process(&self) -> Result<Process> {
        let saved = self.created("exec in")?;
        self.config(saved)?.process().cloned()
    }

    /// All its processes, as they are numbered here.
    ///
    /// # Errors
    /// The cgroups cannot be read.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let Some(saved) = &self.saved else { return Ok(Vec::new()) };
        let keeper = saved.keeper.map(ProcessRef::pid);
        let mut pids = saved.cgroups.pids()?;
        pids.retain(|pid| Some(*pid) != keeper);
        // Without any cgroups it is at least known which one is the first.
        if pids.is_empty() {
            pids.extend(self.init());
        }
        Ok(pids)
    }

    /// What it uses.
    ///
    /// # Errors
    /// The cgroups cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        self.created("look at")?.cgroups.stats()
    }

    /// Sets what it may use.
    ///
    /// # Errors
    /// The kernel refuses a limit.
    pub fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        let _lock = self.directory.lock()?;
        let warnings = self.created("update")?.cgroups.set(resources)?;
        self.warnings.extend(warnings);
        Ok(())
    }

    /// Freezes its processes.
    ///
    /// # Errors
    /// There is no freezer, as in gVisor; or [`Error::Status`] if it does not run.
    pub fn pause(&self) -> Result<()> {
        let _lock = self.directory.lock()?;
        match self.status() {
            Status::Created | Status::Running => self.created("pause")?.cgroups.freeze(),
            _ => Err(self.wrong_status("pause")),
        }
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    /// [`Error::Status`] if it is not paused.
    pub fn resume(&self) -> Result<()> {
        let _lock = self.directory.lock()?;
        match self.status() {
            Status::Paused => self.created("resume")?.cgroups.thaw(),
            _ => Err(self.wrong_status("resume")),
        }
    }

    fn created(&self, operation: &'static str) -> Result<&Saved> {
        self.saved.as_ref().ok_or_else(|| self.wrong_status(operation))
    }

    fn config(&self, saved: &Saved) -> Result<Config> {
        Config::of_created(self.directory.spec()?, saved.bundle.clone(), saved.rootfs.clone())
    }

    fn wrong_status(&self, operation: &'static str) -> Error {
        Error::Status { id: self.id.clone(), operation, status: self.status() }
    }
}

/// Kills its first process, if it lives, with which it ends.
fn end(saved: &Saved) -> Result<()> {
    if !saved.init.lives() {
        return Ok(());
    }
    Signal::KILL.send_if_there(saved.init.pid())?;
    thaw(saved)
}

fn thaw(saved: &Saved) -> Result<()> {
    if saved.cgroups.is_frozen().unwrap_or(false) { saved.cgroups.thaw() } else { Ok(()) }
}
