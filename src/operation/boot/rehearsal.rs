//! A boot without effects: what a command line would come to on the real server, and what it guarantees.

use crate::format::boot_url::beside;
use crate::format::loop_reference::LoopReference;
use crate::format::pull_expression::PullKind;
use crate::image::boot::BootRequest;
use crate::image::plan::ActivationPlan;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::observer::Observer;
use crate::operation::pull::{TarRequest, plan_pull, plan_tar};

use super::{PreparedPull, mistaken, origin};

/// What would come of one pull.
#[derive(Debug)]
pub enum Rehearsed {
    /// These devices, or a file that holds them.
    Image {
        /// What their links begin with.
        reference: LoopReference,
        /// What is planned.
        plan: ActivationPlan,
        /// Whether devices are made.
        attached: bool,
    },
    /// A tree, which somebody vouches for as a whole, or nobody.
    Tree {
        /// Who.
        vouched_by: Option<String>,
    },
    /// Nothing, because the machine was not booted from a server.
    Skipped,
}

/// Asks the server of one pull, by its number, what would come of it. `boot_url` is where the machine would have been
/// booted from; without, firmware is asked.
///
/// # Errors
/// As [`super::run_pull`], as far as that can be known without the whole image.
pub fn rehearse(
    request: &BootRequest,
    number: usize,
    boot_url: Option<&str>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Rehearsed, OperationError> {
    request.check().map_err(mistaken)?;
    let Some(asked) = request.pulls.get(number) else { return Ok(Rehearsed::Skipped) };
    let expression = asked.expression.as_ref().map_err(mistaken)?;
    let prepared = PreparedPull::new(request, expression)?;
    let url = match boot_url.filter(|_| expression.boot_origin) {
        Some(boot_url) => Some(beside(boot_url, &expression.remote).map_err(|error| {
            OperationError::Usage(format!("finding '{}' beside '{boot_url}': {error}", expression.remote))
        })?),
        None => origin::url_of(expression, observer)?,
    };
    let Some(url) = url else { return Ok(Rehearsed::Skipped) };
    for warning in prepared.trust.warnings() {
        observer.warning(warning);
    }
    let pull = prepared.pull_request(&url)?;
    if expression.kind == PullKind::Tar {
        let request = TarRequest { pull, policy: Some(prepared.policy.clone()), device_nodes: true };
        let vouched_by = plan_tar(&request, &prepared.trust, observer, cancel)?;
        return Ok(Rehearsed::Tree { vouched_by });
    }
    let (reference, plan) = plan_pull(&pull, &prepared.trust, observer, cancel)?;
    Ok(Rehearsed::Image { reference, plan, attached: expression.block_device })
}
