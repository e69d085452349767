use super::*;
use proptest::prelude::*;

fn record(action: &str) -> Record {
    Record {
        actor: "alice".into(),
        action: action.into(),
        object: "rollout/017".into(),
        detail: String::new(),
        at_ms: 1_795_363_200_000,
    }
}

fn chain(length: usize) -> (Head, Vec<Entry>) {
    let mut head = Head::genesis("control");
    let mut entries = Vec::new();
    for at in 0..length {
        let (next, entry) = append(head, record(&format!("act.{at}")));
        head = next;
        entries.push(entry);
    }
    (head, entries)
}

fn verify(entries: &[Entry], head: Head) -> Result<(), Broken> {
    let mut verifier = Verifier::after(Head::genesis("control"));
    entries.iter().try_for_each(|entry| verifier.check(entry))?;
    verifier.finish(head)
}

#[test]
fn a_chain_verifies_from_genesis_to_head() {
    let (head, entries) = chain(5);
    assert_eq!(verify(&entries, head), Ok(()));
    let mut tail = Verifier::after(entries[2].head());
    assert!(entries[3..].iter().all(|entry| tail.check(entry).is_ok()));
    assert_eq!(tail.finish(head), Ok(()));
}

#[test]
fn a_changed_entry_is_named() {
    let (head, mut entries) = chain(5);
    entries[2].record.actor = "mallory".into();
    assert!(matches!(
        verify(&entries, head),
        Err(Broken::Content { seq: 3, .. })
    ));
}

#[test]
fn a_changed_entry_with_a_new_digest_breaks_the_next_link() {
    let (head, mut entries) = chain(5);
    entries[2].record.actor = "mallory".into();
    entries[2].digest = digest(3, entries[2].prev, &entries[2].record);
    let (expected, found) = (entries[2].digest, entries[3].prev);
    assert_eq!(
        verify(&entries, head),
        Err(Broken::Link {
            seq: 4,
            expected,
            found
        })
    );
}

#[test]
fn a_missing_entry_is_named_wherever_it_was() {
    let (head, mut entries) = chain(3);
    entries.remove(1);
    assert_eq!(
        verify(&entries, head),
        Err(Broken::Sequence {
            expected: 2,
            found: 3
        })
    );
    let (head, mut entries) = chain(3);
    entries.pop();
    assert!(matches!(
        verify(&entries, head),
        Err(Broken::Head {
            expected_seq: 3,
            found_seq: 2,
            ..
        })
    ));
}

#[test]
fn the_first_break_stays_the_answer() {
    let (_, entries) = chain(3);
    let mut verifier = Verifier::after(Head::genesis("control"));
    let first = verifier.check(&entries[1]);
    assert_eq!(verifier.check(&entries[0]), first);
    assert_eq!(verifier.head().seq, 0);
}

#[test]
fn the_chain_of_another_group_is_refused() {
    let mut verifier = Verifier::after(Head::genesis("inventory-0"));
    assert!(matches!(
        verifier.check(&chain(1).1[0]),
        Err(Broken::Link { seq: 1, .. })
    ));
}

#[test]
fn the_bytes_of_version_1_are_frozen() {
    let (head, entry) = append(Head::genesis("control"), record("rollout.halt"));
    assert_eq!(
        entry.prev.to_hex(),
        "d2bfd6098f215a77683a69f83ea86fe406748831f3152899bdf41913ef5cc308"
    );
    assert_eq!(
        head.digest.to_hex(),
        "0f1658fb0bf7a956d08db4e41aaa8bd2e487220f58c7187a8305438958dd40d3"
    );
}

proptest! {
    #[test]
    fn any_edit_is_found(length in 1_usize..8, at in 0_usize..8, field in 0..6, text in "[a-z]{1,3}") {
        let (head, mut entries) = chain(length);
        let at = at % length;
        let entry = &mut entries[at];
        match field {
            0 => entry.record.actor += &text,
            1 => entry.record.action += &text,
            2 => entry.record.object += &text,
            3 => entry.record.detail += &text,
            4 => entry.record.at_ms += 1,
            _ => entry.seq += 1,
        }
        prop_assert!(verify(&entries, head).is_err());
    }
}
