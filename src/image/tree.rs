//! A tree of files that is unpacked: it has no protection of its own, so only that of its download counts.

use super::policy::ImagePolicy;
use super::presets::RequestedPolicy;

/// Why a tree is not unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeRefusal {
    /// The policy wants everything authenticated, and this download is not.
    #[error(
        "policy '{policy}' demands that all that is exposed is authenticated; a tar has no signature of its own, and how \
         its download is verified authenticates nothing: pin the download with --verify=SHA256, or say with \
         --image-policy='*' that nothing is required"
    )]
    DemandsAuthentication {
        /// The policy by its name.
        policy: String,
    },
    /// The policy wants something of partitions.
    #[error(
        "policy '{policy}' requires something of partitions, and a tar has none: say with --image-policy='*' that nothing \
         is required, or leave the policy to how the download is verified"
    )]
    Restricts {
        /// The policy by its name or in its own words.
        policy: String,
    },
}

/// Whether the policy that was `given` in words lets a tree be unpacked whose download is `authenticated`. Without a
/// policy the user has said with the way of verifying the download what is required.
///
/// # Errors
/// A [`TreeRefusal`].
pub fn allows_tree(given: Option<&RequestedPolicy>, authenticated: bool) -> Result<(), TreeRefusal> {
    let Some(given) = given else {
        return Ok(());
    };
    let policy = given.to_string();
    if given.strictness().demands_authentication() {
        return if authenticated { Ok(()) } else { Err(TreeRefusal::DemandsAuthentication { policy }) };
    }
    if given.policy().is_equivalent(&ImagePolicy::allow()) {
        Ok(())
    } else {
        Err(TreeRefusal::Restricts { policy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verified_policy_wants_an_authenticated_download_and_others_nothing_that_a_tar_has() {
        for policy in [RequestedPolicy::verified_boot(), RequestedPolicy::verified_extension()] {
            assert_eq!(allows_tree(Some(&policy), true), Ok(()));
            let refusal = allows_tree(Some(&policy), false).unwrap_err();
            assert!(matches!(refusal, TreeRefusal::DemandsAuthentication { .. }), "{refusal}");
            assert!(refusal.to_string().contains(&policy.to_string()));
        }
        let anything = RequestedPolicy::as_written("*".parse().unwrap());
        let signed = RequestedPolicy::as_written("root=signed".parse().unwrap());
        for authenticated in [false, true] {
            assert_eq!(allows_tree(None, authenticated), Ok(()));
            assert_eq!(allows_tree(Some(&anything), authenticated), Ok(()));
            assert!(matches!(allows_tree(Some(&signed), authenticated), Err(TreeRefusal::Restricts { .. })));
        }
    }
}
