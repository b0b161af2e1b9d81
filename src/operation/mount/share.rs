//! Finding an attachment of the image whose devices can be mounted, instead of making others.

use crate::operation::activate::{Activation, shows};
use crate::operation::attach::AttachRequest;
use crate::operation::cancel::Cancel;
use crate::operation::error::OperationError;
use crate::operation::fault;
use crate::operation::observer::Observer;
use crate::operation::record::{Record, RecordStore};
use crate::operation::source::ImageFile;
use crate::operation::trust_store::TrustStore;
use crate::operation::verified_image::plan;

use super::NAMING;

/// The devices of an attachment of this image, if one has exactly those that would be made now. One that has not is left
/// alone, and why is told; where it has the very name that was asked for, that is an error.
///
/// # Errors
/// [`OperationError::State`] where the name is taken by an attachment that cannot be used; what planning and examining
/// said.
pub(super) fn find(
    request: &AttachRequest,
    trust: &TrustStore,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Option<Activation>, OperationError> {
    let store = RecordStore::of_this_machine();
    // A copy in memory is another image.
    if request.in_memory || store.is_absent() {
        return Ok(None);
    }
    let image = ImageFile::open_with_companions(&request.image, &request.companions)?;
    let _lock = store.lock()?;
    let named =
        |record: &Record| request.reference.as_ref().is_none_or(|name| name.as_str() == record.reference);
    let mut candidates = Vec::new();
    for record in store.all()?.into_iter().filter(named) {
        if request.reference.is_some() || shows(&record, &image)? {
            candidates.push(record);
        }
    }
    if candidates.is_empty() {
        return Ok(None);
    }
    let plan = plan(&image, &request.trust(trust), &request.policy, request.access(), cancel)?;
    for record in candidates {
        let reference = record.reference.clone();
        match Activation::of_attachment(&store, record, &image, &plan, request.options())? {
            Ok(activation) => {
                observer.note(&format!("'{reference}' is attached already: its devices are mounted"));
                return match fault::point("mount:shared") {
                    Ok(()) => Ok(Some(activation)),
                    Err(cause) => Err(activation.undo(cause)),
                };
            }
            Err(why) if request.reference.is_some() => {
                let problem = format!(
                    "the name is taken by the attachment '{reference}', whose devices cannot be used: {why}: choose \
                     another one with --loop-ref=, or detach that one first"
                );
                return Err(OperationError::state(NAMING, &reference, problem));
            }
            Err(why) => {
                observer
                    .note(&format!("'{reference}' is attached already, and its devices are not used: {why}"));
            }
        }
    }
    Ok(None)
}
