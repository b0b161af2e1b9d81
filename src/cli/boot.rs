use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};

use crate::image::boot::{BootPull, BootRequest, RootDevice, Stage};
use crate::image::plan::ActivationPlan;
use crate::operation::boot::{
    BootOutcome, BootSources, Rehearsed, check_all, read_request, rehearse, run_all, run_pull,
};
use crate::operation::error::OperationError;
use crate::operation::list::Listed;

use super::options::{Json, JsonOption};
use super::report::{attached, planned, planned_json};
use super::{Context, Failure, Status, say};

/// Do what the kernel command line asks for at boot: pull, verify and attach
///
/// Every rd.systemd.pull= (in an initrd; else systemd.pull=) is downloaded, held to the policy, verified and attached or
/// placed, in order; the first that fails ends it. Prints the paths of what was made, one a line. In an initrd with systemd,
/// units made by ddictl-generator call this; in others a script does. See ddictl.boot(7).
///
/// With --dry-run nothing is made: the servers are asked for parts of the images, and it is said what would come of them and
/// what would vouch for it, or why the boot would stop. That needs no privilege.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The kernel command line, in one word or several [default: that of the running kernel]
    #[arg(value_name = "CMDLINE")]
    command_line: Vec<String>,

    /// Rehearse: ask the servers, and make nothing; as if in an initrd, unless --host is given
    #[arg(long)]
    dry_run: bool,

    /// Rehearse what systemd.pull= asks for, after the switch to the root file system
    #[arg(long, requires = "dry_run")]
    host: bool,

    /// Rehearse as if the machine had been booted from this URL, for pulls with 'bootorigin'
    #[arg(long, value_name = "URL", requires = "dry_run")]
    boot_url: Option<String>,

    /// Do this pull alone, by its number on the command line, from 0; for units
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["dry_run", "check"])]
    pull: Option<usize>,

    /// Only check the command line and the system, without network or effects; for units
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,

    #[command(flatten)]
    json: JsonOption,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<Status, Failure> {
        let request = read_request(&self.sources())?;
        if self.check {
            check_all(&request)?;
            return Ok(Status::Done);
        }
        if self.dry_run {
            return self.rehearse(&request, context);
        }
        let outcomes = match self.pull {
            Some(number) => vec![run_pull(&request, number, &context.observer, &context.cancel)?],
            None => run_all(&request, &context.observer, &context.cancel)?,
        };
        let mut output = String::new();
        for outcome in outcomes {
            match outcome {
                BootOutcome::Attached(record) => {
                    output.push_str(&attached(self.json.json, &Listed::of_attached(record)));
                }
                BootOutcome::Placed(record) => {
                    let paths = record.placed.iter().map(|placed| placed.path.display().to_string());
                    output.extend(paths.map(|path| self.path(&path)));
                }
                BootOutcome::Already(path) => output.push_str(&self.path(&path.display().to_string())),
                BootOutcome::NotBootedFromServer => {}
            }
        }
        io::stdout().write_all(output.as_bytes())?;
        Ok(Status::Done)
    }

    fn path(&self, path: &str) -> String {
        self.json.json.render(&json!({ "path": path })).unwrap_or_else(|| format!("{path}\n"))
    }

    fn sources(&self) -> BootSources {
        let environment = boot_sources();
        let given = (!self.command_line.is_empty()).then(|| self.command_line.join(" "));
        let rehearsed = self.dry_run.then_some(!self.host);
        BootSources {
            command_line: given.or(environment.command_line),
            in_initrd: environment.in_initrd.or(rehearsed),
        }
    }

    /// Says of every pull what would come of it.
    fn rehearse(&self, request: &BootRequest, context: &Context) -> Result<Status, Failure> {
        let mut status = Status::Done;
        if request.pulls.is_empty() {
            say("note", &format!("the command line asks for no pull (no {}=)", request.stage.pull_option()));
        }
        for (number, pull) in request.pulls.iter().enumerate() {
            let boot_url = self.boot_url.as_deref();
            let rehearsed = rehearse(request, number, boot_url, &context.observer, &context.cancel);
            let output = match &rehearsed {
                Ok(rehearsed) => self.told(request, pull, rehearsed),
                Err(OperationError::Usage(problem)) => {
                    return Err(Failure::Operation(OperationError::Usage(problem.clone())));
                }
                Err(OperationError::Interrupted(interrupted)) => return Err((*interrupted).into()),
                Err(error) => {
                    let worse =
                        if error.is_about_the_image() { Status::NotAcceptable } else { Status::SomeFailed };
                    status = status.max(worse);
                    self.refused(pull, error)
                }
            };
            io::stdout().write_all(output.as_bytes())?;
        }
        if let Some(note) = root_note(request) {
            say("note", &note);
        }
        Ok(status)
    }

    fn told(&self, request: &BootRequest, pull: &BootPull, rehearsed: &Rehearsed) -> String {
        let name = pull_name(pull);
        let guarantees = guarantees(rehearsed);
        let head = json!({
            "pull": name,
            "asked_by": pull.source.to_string(),
            "verdict": "accept",
            "guarantees": guarantees,
            "root": pull.expression.as_ref().is_ok_and(|expression| is_root(request, expression)),
        });
        let with_plan = |plan: Value| {
            let mut object = head.clone();
            object["plan"] = plan;
            object
        };
        let (value, text) = match rehearsed {
            Rehearsed::Image { reference, plan, attached } => {
                let what = if *attached { "" } else { "  as a file, reduced to these partitions:\n" };
                let rows = planned(Json::Off, reference, plan);
                (with_plan(planned_json(reference, plan)), format!("{what}{}", indented(&rows)))
            }
            Rehearsed::Tree { .. } => (head.clone(), "  a tree of files\n".to_owned()),
            Rehearsed::Skipped => {
                (head.clone(), "  nothing: the machine would not have been booted from a server\n".to_owned())
            }
        };
        self.json.json.render(&value).unwrap_or_else(|| {
            let lines: String = guarantees.iter().map(|line| format!("  guarantee: {line}\n")).collect();
            format!("{name}: accept\n{text}{lines}")
        })
    }

    fn refused(&self, pull: &BootPull, error: &OperationError) -> String {
        let (name, why) = (pull_name(pull), error.with_causes());
        let verdict = if error.is_about_the_image() { "refuse" } else { "fail" };
        let value = json!({
            "pull": name,
            "asked_by": pull.source.to_string(),
            "verdict": verdict,
            "why": why,
        });
        self.json.json.render(&value).unwrap_or_else(|| {
            say("error", &why);
            format!("{name}: {verdict}: the boot would stop here\n")
        })
    }
}

/// What the environment says instead of the system, as for systemd's own generators.
#[must_use]
pub(crate) fn boot_sources() -> BootSources {
    let text = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    BootSources {
        command_line: text("SYSTEMD_PROC_CMDLINE"),
        in_initrd: match text("SYSTEMD_IN_INITRD").as_deref() {
            Some("1" | "yes" | "true" | "on") => Some(true),
            Some("0" | "no" | "false" | "off") => Some(false),
            _ => None,
        },
    }
}

fn pull_name(pull: &BootPull) -> String {
    pull.expression.as_ref().map_or_else(|_| pull.source.to_string(), |expression| expression.name.clone())
}

fn is_root(request: &BootRequest, expression: &crate::format::pull_expression::PullExpression) -> bool {
    request.is_bound_as_root(expression)
        || request.demands(expression).is_ok_and(|demands| !demands.is_empty())
}

/// What vouches for what would be used.
fn guarantees(rehearsed: &Rehearsed) -> Vec<String> {
    match rehearsed {
        Rehearsed::Image { plan, .. } => of_plan(plan),
        Rehearsed::Tree { vouched_by: Some(by) } => {
            vec![format!("the archive as a whole is vouched for by {by}")]
        }
        Rehearsed::Tree { vouched_by: None } => {
            vec!["none: whoever owns the network decides what the tree is".to_owned()]
        }
        Rehearsed::Skipped => Vec::new(),
    }
}

fn of_plan(plan: &ActivationPlan) -> Vec<String> {
    let of_device = |device: &crate::image::plan::PlannedDevice| {
        let authenticated = device.verity.as_ref().and_then(|verity| verity.authenticated.as_ref());
        match authenticated {
            Some(authenticated) => format!("{}: {}", device.designator, authenticated.by()),
            None => format!(
                "{}: none ({}): whoever owns the network decides what is in it",
                device.designator,
                device.protection.as_str()
            ),
        }
    };
    plan.devices.iter().map(of_device).collect()
}

/// What is to be said of `root=`, where nothing that is pulled becomes the root file system.
fn root_note(request: &BootRequest) -> Option<String> {
    let found = request.pulls.iter().filter_map(|pull| pull.expression.as_ref().ok());
    if request.stage == Stage::Host || found.into_iter().any(|expression| is_root(request, expression)) {
        return None;
    }
    let named = match &request.root {
        Some(RootDevice::LoopReference(reference)) => format!("root= names the loop reference '{reference}'"),
        Some(_) => "root= names something else".to_owned(),
        None => "there is no root=".to_owned(),
    };
    Some(format!("{named}: nothing that is pulled becomes the root file system"))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
