//! Components whose chosen system calls are intercepted: run by a part of this program that traces them
//! ([`terrarium_intercept`]). If the tracer is killed, what it traces ends with it, and both are started again.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value};
use terrarium_intercept::Stats;
use terrarium_remedies::Setting;

use crate::component::{CommandLine, KUBELET, Name, Spec};
use crate::launch::own_program;
use crate::layout::write;
use crate::{Error, Layout};

/// The part of this program that traces another.
pub const INTERCEPT: &str = "intercept";

/// The command, or one that runs it by the rules that the settings have for it.
pub(crate) fn wrap(spec: &Spec<'_>, name: Name, command: CommandLine) -> Result<CommandLine, Error> {
    if rules(&spec.settings).is_none() {
        return Ok(command);
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (rules, figures) = (text(rules_file(spec.layout, name)), text(figures_file(spec.layout, name)));
    let mut args = [INTERCEPT, "--rules", &rules, "--stats", &figures, "--"].map(str::to_owned).to_vec();
    args.push(text(command.program));
    args.extend(command.args);
    Ok(CommandLine { program: own_program()?, args })
}

/// Writes the kubelet's rules, if it has any.
pub(crate) fn write_rules(spec: &Spec<'_>) -> Result<(), Error> {
    let Some(rules) = rules(&spec.settings) else { return Ok(()) };
    let content = serde_json::to_vec_pretty(&rules).expect("a value becomes JSON");
    write(&rules_file(spec.layout, KUBELET), &content)
}

/// How often each rule of a component changed a call; nothing of one that is not traced.
pub(crate) fn figures(layout: &Layout, name: Name) -> Option<Stats> {
    serde_json::from_slice(&fs::read(figures_file(layout, name)).ok()?).ok()
}

fn rules(settings: &[Setting]) -> Option<Value> {
    let mut lists = Map::new();
    for setting in settings {
        if let Setting::Intercept { list, rule } = setting
            && let Value::Array(rules) = lists.entry(list.as_str()).or_insert_with(|| Value::Array(Vec::new()))
        {
            rules.push(rule.clone());
        }
    }
    (!lists.is_empty()).then_some(Value::Object(lists))
}

fn rules_file(layout: &Layout, name: Name) -> PathBuf {
    layout.config(&format!("{name}-intercept.json"))
}

fn figures_file(layout: &Layout, name: Name) -> PathBuf {
    layout.runtime().join(format!("{name}-intercept.json"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_gathered_by_list() {
        let rule = |list: &str, rule: Value| Setting::Intercept { list: list.to_owned(), rule };
        let settings =
            [rule("redirect", json!(1)), Setting::MemoryGuard, rule("statfs", json!(2)), rule("redirect", json!(3))];
        assert_eq!(rules(&settings), Some(json!({"redirect": [1, 3], "statfs": [2]})));
        assert_eq!(rules(&[Setting::MemoryGuard]), None);
    }
}
