//! The version of what the processes of a cluster say to each other: in `Caller` between nodes, in `Hello` of gateways.
//!
//! A new field that the other end may overlook is no new version. A version is new when the other end would misunderstand
//! or have to answer; a release that has one still speaks and understands the one before, so that a cluster is upgraded
//! process by process.

/// What this version of the software speaks, and understands.
pub const PROTOCOL: u32 = 1;

/// The other end speaks something else.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{who} speaks version {spoken} of the cluster's protocol and {here} version {PROTOCOL}: upgrade the older one first, one release at a time"
)]
pub struct Incompatible {
    who: String,
    spoken: u32,
    here: String,
}

/// Can what `who` says be understood `here`? Nothing is said, 0, by software from before there were versions: that is 1.
pub fn check(who: &str, spoken: u32, here: &str) -> Result<(), Incompatible> {
    match spoken {
        0 | PROTOCOL => Ok(()),
        spoken => Err(Incompatible {
            who: who.to_owned(),
            spoken,
            here: here.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_is_of_the_first_version_and_another_version_is_refused_with_what_to_do() {
        assert_eq!(PROTOCOL, 1, "0 stands for the first version only");
        assert_eq!(check("n2", 0, "n1"), Ok(()));
        assert_eq!(check("n2", 1, "n1"), Ok(()));
        let refused = check("n2", 2, "n1").unwrap_err().to_string();
        assert_eq!(
            refused,
            "n2 speaks version 2 of the cluster's protocol and n1 version 1: upgrade the older one first, one release at a time"
        );
    }
}
