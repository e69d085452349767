//! An agent's place in a rollout: of all the lists that name it, the one that decides for it.

use fleet::family::stop_delivery;
use fleet::program::{Epoch, Place, Program, Whose};
use proto::uid::Uid;

use crate::inventory::{Columns, List, Owner, Row};

/// A place that outlives the look at the lists.
pub struct OwnedPlace {
    rollout: String,
    role: String,
    wave: u32,
    taken_from: Option<(String, String)>,
}

/// The place that decides for an agent, among those in rollouts that the program names.
pub fn place_of<'a>(
    columns: &'a Columns,
    program: &'a Program,
    uid: Uid,
    whose: Whose<'_>,
) -> Option<Place<'a>> {
    program.place_that_counts(whose, &places_of(columns, program, uid))
}

/// The agent's places in all rollouts that the program names, whether their waves are open or not.
pub fn places_of<'a>(columns: &'a Columns, program: &'a Program, uid: Uid) -> Vec<Place<'a>> {
    let lists = columns.listed.get(&uid).into_iter().flatten();
    let places = lists.filter_map(|id| place_in(columns, program, uid, id));
    places.collect()
}

/// Does the list of its place say that the agent's delivery does not change?
pub fn is_unchanged(columns: &Columns, uid: Uid, place: Option<&Place<'_>>) -> bool {
    let list = place.and_then(|place| columns.lists.get(place.rollout));
    list.and_then(|list| list.get(&uid))
        .is_some_and(|member| member.unchanged)
}

/// The agent's place in this rollout, if the program names it.
fn place_in<'a>(
    columns: &'a Columns,
    program: &'a Program,
    uid: Uid,
    id: &str,
) -> Option<Place<'a>> {
    let (family, rollout) = program.rollout(id)?;
    let member = columns.lists.get(id)?.get(&uid)?;
    let role = family.roles(rollout.to).get(member.role as usize)?;
    Some(Place {
        rollout: &rollout.id,
        role: &role.name,
        wave: member.wave,
        taken_from: member.taken_from.as_ref().map(|from| (&*from.0, &*from.1)),
    })
}

/// Whom the family's last rollout, which is not completed, has taken an agent from: it still owes it the way back. Who
/// joined a family since has come there by itself, and who is there by a person's word since is there to stay.
pub fn came_from<'a>(row: &Row, last: Option<(Epoch, &'a List)>) -> Option<(&'a str, &'a str)> {
    let delivery = row.delivery.as_ref()?;
    let (opened, list) = last?;
    let here = |granted: &Owner| row.owner() == Some((&*granted.0, &*granted.1));
    let settled = row.granted.as_ref().is_none_or(here);
    if settled && row.resolved >= opened.0 && row.resolved != 0 {
        return None;
    }
    let taken_from = list.get(&row.uid)?.taken_from.as_ref()?;
    let taken_from = (&*taken_from.0, &*taken_from.1);
    let owes = !delivery.rollout.is_empty() || delivery.hash == stop_delivery();
    (owes && row.owner() != Some(taken_from)).then_some(taken_from)
}

// === impl OwnedPlace ===

impl OwnedPlace {
    /// Of a place.
    pub fn of(place: Place<'_>) -> Self {
        let owned = |(family, role): (&str, &str)| (family.to_owned(), role.to_owned());
        OwnedPlace {
            rollout: place.rollout.to_owned(),
            role: place.role.to_owned(),
            wave: place.wave,
            taken_from: place.taken_from.map(owned),
        }
    }

    /// As the domain takes it.
    pub fn borrow(&self) -> Place<'_> {
        let taken_from = self.taken_from.as_ref();
        Place {
            rollout: &self.rollout,
            role: &self.role,
            wave: self.wave,
            taken_from: taken_from.map(|(family, role)| (family.as_str(), role.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fleet::digest::Digest;
    use fleet::program::{
        Epoch, OwnerChange, ProgramFamily, ProgramRole, ProgramRollout, RevisionNumber,
    };
    use fleet::selector::Selector;
    use prost::Message;
    use proto::store;

    use super::*;
    use crate::inventory::{Index, chunk};
    use crate::ledger::{Mirror, table};

    fn uid() -> Uid {
        Uid::from_wire(&[7; 16]).unwrap()
    }

    /// With a rollout of its own, of which so many waves are open.
    fn family(name: &str, precedence: i64, rollout: &str, open: u32) -> ProgramFamily {
        let role = ProgramRole {
            name: "agent".into(),
            selector: Selector::parse("*").unwrap(),
            delivery: Digest::of("test", &[name.as_bytes()]),
            baseline: Digest::of("test", &[b"baseline"]),
            needs: std::sync::Arc::default(),
        };
        ProgramFamily {
            name: name.into(),
            precedence,
            stable: None,
            revisions: BTreeMap::from([(RevisionNumber(1), vec![role])]),
            owner_change: OwnerChange::Ask,
            rollout: Some(ProgramRollout {
                id: rollout.into(),
                from: None,
                to: RevisionNumber(1),
                running: true,
                open_waves: BTreeMap::from([("agent".into(), open)]),
                roll_back: None,
                passed: false,
                opened: Epoch(1),
                returning: false,
            }),
        }
    }

    fn program(open: u32) -> Program {
        Program {
            epoch: Epoch(1),
            families: vec![family("web", 2, "ro-2", open), family("db", 1, "ro-1", 1)],
            pins: vec![],
        }
    }

    /// On the list of its owner's rollout, on a newer one that takes it over, and on one that the program does not name.
    fn listed() -> Index {
        let index = Index::default();
        let mut mirror = index.mirror();
        for (rollout, taken_from) in [("ro-1", None), ("ro-2", Some("db")), ("ro-3", None)] {
            let taken_from = taken_from.map(|family: &str| store::Owner {
                family: family.into(),
                role: "agent".into(),
            });
            let member = store::Member {
                uid: uid().as_bytes().to_vec(),
                taken_from,
                ..store::Member::default()
            };
            let list = store::MemberChunk {
                members: vec![member],
            };
            mirror.put(table::MEMBERS, &chunk(rollout, 0), 1, &list.encode_to_vec());
        }
        mirror.publish(0);
        index
    }

    #[test]
    fn the_owners_list_decides_until_the_wave_that_takes_the_agent_over_is_open() {
        let index = listed();
        let columns = index.read();
        let decides = |open, owner: Option<&str>| {
            let program = program(open);
            let whose = Whose {
                owner: owner.map(|family| (family, "agent")),
                ..Whose::default()
            };
            place_of(&columns, &program, uid(), whose).map(|place| place.rollout.to_owned())
        };
        assert_eq!(decides(0, Some("db")).as_deref(), Some("ro-1"));
        assert_eq!(decides(1, Some("db")).as_deref(), Some("ro-2"));
        assert_eq!(decides(1, Some("web")).as_deref(), Some("ro-2"));
        assert_eq!(decides(1, Some("gone")), None);
        let other = Uid::from_wire(&[8; 16]).unwrap();
        assert!(place_of(&columns, &program(1), other, Whose::default()).is_none());
    }

    #[test]
    fn every_list_that_the_program_names_is_a_place_before_its_wave_is_open() {
        let index = listed();
        let (columns, program) = (index.read(), program(0));
        let places = places_of(&columns, &program, uid());
        let mut of: Vec<_> = places.iter().map(|p| (p.rollout, p.taken_from)).collect();
        of.sort_unstable();
        assert_eq!(of, [("ro-1", None), ("ro-2", Some(("db", "agent")))]);
    }
}
