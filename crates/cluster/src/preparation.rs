//! From a look at the sandbox to a plan for it.

use std::path::Path;

use serde::Serialize;
use terrarium_gaps::{Blocks, GapId, Place, Report, Rung};
use terrarium_remedies::{Choice, Choices, Decision, Isolation, NODE_ADDRESS, Plan, Site, plan};

use crate::component::{self, CommandLine, Spec};
use crate::{Error, Layout, OciRuntime, Options};

/// Looks at the sandbox and plans for it, with what remedies need in `runtime_dir`. Changes nothing.
///
/// # Errors
/// It could not be looked at.
pub fn look_and_plan(layout: &Layout, options: &Options, runtime_dir: &Path) -> Result<(Report, Plan), Error> {
    let report = match options.remedies.of(GapId::Privileges) {
        Some(Choice::Rung(Rung::Namespace)) => terrarium_probes::probe_in(layout.data(), Place::UserNamespace)?,
        Some(Choice::Nothing) => terrarium_probes::probe_in(layout.data(), Place::MountNamespace)?,
        Some(Choice::Rung(_)) | None => terrarium_probes::probe(layout.data())?,
    };
    let plan = plan(
        &report,
        &choices(options, &report),
        &Site { runtime_dir: runtime_dir.to_owned(), data_dir: layout.data().to_owned() },
    );
    Ok((report, plan))
}

/// What the user decided, and what follows from it: runc takes no cgroup files but the kernel's, and cannot be told not to
/// look. What it starts is to outlive it, so it cannot be traced, either.
fn choices(options: &Options, report: &Report) -> Choices {
    let gap = GapId::CgroupStats;
    let is_open = options.remedies.of(gap).is_none() && report.has(gap);
    let flag = Decision { gap, choice: Choice::Rung(Rung::Flag) };
    let by_runc = (options.oci_runtime == Some(OciRuntime::Runc) && is_open).then_some(flag);
    options.remedies.decisions().chain(by_runc).collect()
}

/// The plan of a start; one without a node needs nothing.
pub(crate) fn plan_start(layout: &Layout, options: &Options) -> Result<Plan, Error> {
    if options.control_plane_only {
        return Ok(Plan::nothing());
    }
    let (_, plan) = look_and_plan(layout, options, layout.runtime())?;
    refuse_obstacles(&plan)?;
    // What is left open by the user's wish does not change what there is.
    if plan.isolation == Isolation::Nothing && !plan.has_no_pods() {
        return Err(Error::WithoutMounts);
    }
    Ok(plan)
}

/// What a start would do.
#[derive(Debug, Serialize)]
pub struct Preview {
    /// What would be done to the sandbox.
    pub plan: Plan,
    /// What would run, in the order in which it starts.
    pub components: Vec<ComponentPreview>,
}

/// A component that would run.
#[derive(Debug, Serialize)]
pub struct ComponentPreview {
    /// Its name.
    pub name: &'static str,
    /// The components that must be ready before it starts.
    pub needs: &'static [&'static str],
    /// Its command, or those of a task, one after another.
    pub commands: Vec<Vec<String>>,
}

/// What a start would do. Changes nothing.
///
/// # Errors
/// The sandbox could not be looked at, or a component is missing.
pub fn preview(layout: &Layout, options: &Options) -> Result<Preview, Error> {
    let plan =
        if options.control_plane_only { Plan::nothing() } else { look_and_plan(layout, options, layout.runtime())?.1 };
    let address = terrarium_cni::node_address().unwrap_or(NODE_ADDRESS);
    let spec = Spec::new(layout, address, plan.isolation, plan.settings().cloned().collect())?;
    let components = component::components(&spec, options)?;
    let components = components.iter().map(|component| ComponentPreview {
        name: component.name,
        needs: component.needs,
        commands: component.command_lines().map(CommandLine::words).collect(),
    });
    let components = components.collect();
    Ok(Preview { plan, components })
}

/// What the user must know of a plan that is carried out: why no Pod will run, or why not as everywhere.
pub(crate) fn warnings(plan: &Plan, options: &Options) -> Vec<String> {
    let open: Vec<_> =
        plan.open.iter().filter(|open| open.blocks >= Blocks::Pods).map(|open| open.gap.to_string()).collect();
    let none = match plan.step(GapId::Privileges).filter(|_| plan.has_no_pods()) {
        Some(step) => Some(format!(
            "nothing can be mounted here and no namespaces be made: there is a node, and Pods stay Pending ({}); see \
             `terrarium doctor`",
            step.purpose
        )),
        None if open.is_empty() => None,
        None => Some(format!("Pods cannot run here ({}); see `terrarium doctor`", open.join(", "))),
    };
    let shared = plan.step(GapId::PodLinks).map(|step| {
        format!(
            "Pods share the node's network here ({}): no two can have the same port, and network policies do not hold; \
             see `terrarium doctor`",
            step.purpose
        )
    });
    let for_pods = options.addons.iter().filter(|(_, is_wanted)| **is_wanted && plan.has_no_pods());
    let left_out = for_pods.map(|(addon, _)| format!("{} is for Pods, and is left out", addon.name()));
    none.into_iter().chain(shared).chain(left_out).collect()
}

/// Fails where the plan leaves a gap that keeps the node from starting, unless the user wants it so.
pub(crate) fn refuse_obstacles(plan: &Plan) -> Result<(), Error> {
    let obstacles: Vec<_> = plan.obstacles().cloned().collect();
    if obstacles.is_empty() { Ok(()) } else { Err(Error::Obstacles(obstacles)) }
}
