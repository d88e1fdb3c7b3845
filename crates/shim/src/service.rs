//! containerd's task service, version 3: requests become calls of [`Tasks`], and their results answers.

use std::collections::HashMap;
use std::sync::Arc;

use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
    StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::api::ProcessInfo;
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::shim::oci::ProcessDetails;
use containerd_shim::protos::shim::shim_ttrpc::create_task;
use containerd_shim::protos::ttrpc::{self, Code, MethodHandler, Request, Response, get_status};
use containerd_shim::util::convert_to_any;
use containerd_shim::{Task, TtrpcContext, TtrpcResult, info};

use crate::error::Error;
use crate::process::Exit;
use crate::server::Order;
use crate::stats;
use crate::tasks::Tasks;

const WAIT: &str = "/containerd.task.v3.Task/Wait";

/// The service's methods, by path.
pub fn methods(tasks: &Arc<Tasks>) -> HashMap<String, Box<dyn MethodHandler + Send + Sync>> {
    let mut methods = create_task(Arc::new(Service { tasks: Arc::clone(tasks) }));
    methods.insert(WAIT.to_owned(), Box::new(Wait { tasks: Arc::clone(tasks) }));
    methods
}

struct Service {
    tasks: Arc<Tasks>,
}

impl Task for Service {
    fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> TtrpcResult<CreateTaskResponse> {
        let pid = self.tasks.create(request)? as u32;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    fn start(&self, _: &TtrpcContext, request: StartRequest) -> TtrpcResult<StartResponse> {
        let pid = self.tasks.start(&request.id, &request.exec_id)? as u32;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    fn state(&self, _: &TtrpcContext, request: StateRequest) -> TtrpcResult<StateResponse> {
        let container = self.tasks.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let state = process.state();
        let stdio = process.stdio.clone();
        Ok(StateResponse {
            id: if process.is_init() { request.id } else { request.exec_id },
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: state.pid as u32,
            status: state.status.into(),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            exit_status: state.exit.map_or(0, |exit| exit.status),
            exited_at: state.exit.map_or_else(MessageField::none, |exit| exit.timestamp()),
            ..StateResponse::default()
        })
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> TtrpcResult<DeleteResponse> {
        let deleted = self.tasks.delete(&request.id, &request.exec_id)?;
        Ok(DeleteResponse {
            pid: deleted.pid as u32,
            exit_status: deleted.exit.map_or(0, |exit| exit.status),
            exited_at: deleted.exit.map_or_else(MessageField::none, |exit| exit.timestamp()),
            ..DeleteResponse::default()
        })
    }

    fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> TtrpcResult<PidsResponse> {
        let mut processes = Vec::new();
        for (pid, exec_id) in self.tasks.pids(&request.id)? {
            let mut process = ProcessInfo { pid, ..ProcessInfo::default() };
            if let Some(exec_id) = exec_id {
                let details = ProcessDetails { exec_id, ..ProcessDetails::default() };
                process.info = Some(convert_to_any(Box::new(details))?).into();
            }
            processes.push(process);
        }
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> TtrpcResult<Empty> {
        Ok(self.tasks.pause(&request.id).map(|()| Empty::default())?)
    }

    fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> TtrpcResult<Empty> {
        Ok(self.tasks.resume(&request.id).map(|()| Empty::default())?)
    }

    fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> TtrpcResult<Empty> {
        Err(Error::Unsupported("a checkpoint").into())
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        self.tasks.kill(&request.id, &request.exec_id, request.signal, request.all)?;
        Ok(Empty::default())
    }

    fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> TtrpcResult<Empty> {
        Ok(self.tasks.exec(request).map(|()| Empty::default())?)
    }

    fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> TtrpcResult<Empty> {
        self.tasks.resize(&request.id, &request.exec_id, request.width, request.height)?;
        Ok(Empty::default())
    }

    fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> TtrpcResult<Empty> {
        Ok(self.tasks.close_io(&request.id, &request.exec_id).map(|()| Empty::default())?)
    }

    fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> TtrpcResult<Empty> {
        Ok(self.tasks.update(&request.id, &request.resources.value).map(|()| Empty::default())?)
    }

    fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> TtrpcResult<StatsResponse> {
        let metrics = stats::metrics(self.tasks.stats(&request.id)?);
        let stats = Some(convert_to_any(Box::new(metrics))?).into();
        Ok(StatsResponse { stats, ..StatsResponse::default() })
    }

    fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        let task_pid = self.tasks.container(&request.id).map_or(0, |container| container.init.state().pid as u32);
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, ..ConnectResponse::default() })
    }

    fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> TtrpcResult<Empty> {
        // One shim serves all containers of a Pod, and each of them asks for this when it is deleted.
        if self.tasks.is_empty() {
            info!("no container is left");
            self.tasks.control.send(Order::Shutdown);
        }
        Ok(Empty::default())
    }
}

/// `Wait` is answered when the process ends. containerd asks it of every process; as the other methods are made it would keep
/// a thread each.
struct Wait {
    tasks: Arc<Tasks>,
}

/// A request that waits for a process's end.
pub struct Waiter {
    context: TtrpcContext,
}

impl MethodHandler for Wait {
    fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<()> {
        let process = WaitRequest::parse_from_bytes(&request.payload)
            .map_err(|error| Error::Invalid(format!("wait: {error}")))
            .and_then(|request| self.tasks.container(&request.id)?.process(&request.exec_id));
        let waiter = Waiter { context };
        match process {
            Ok(process) => {
                let mut state = process.state();
                match state.exit {
                    Some(exit) => waiter.answer(exit),
                    None => state.waiters.push(waiter),
                }
            }
            Err(error) => waiter.respond(ttrpc::Error::from(error).into()),
        }
        Ok(())
    }
}

impl Waiter {
    /// Tells how the process ended.
    pub fn answer(self, exit: Exit) {
        let answer = WaitResponse { exit_status: exit.status, exited_at: exit.timestamp(), ..WaitResponse::default() };
        let mut response = Response::new();
        match answer.write_to_bytes() {
            Ok(payload) => {
                response.set_status(get_status(Code::OK, ""));
                response.payload = payload;
            }
            Err(error) => response.set_status(get_status(Code::INTERNAL, error)),
        }
        self.respond(response);
    }

    fn respond(self, response: Response) {
        if let Err(error) = self.context.respond(self.context.mh.stream_id, response) {
            info!("nobody waits any more: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Task for Nothing {}

    #[test]
    fn wait_takes_the_place_of_the_generated_method() {
        assert!(create_task(Arc::new(Nothing)).contains_key(WAIT));
    }
}
