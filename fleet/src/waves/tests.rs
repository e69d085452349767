//! Sizes and places, case by case.

use super::*;
use proptest::prelude::*;

#[test]
fn the_default_sizes_of_a_large_fleet_are_exact() {
    let sizes = [
        Size::Count(1),
        Size::Percent(1000),
        Size::Percent(10_000),
        Size::Percent(50_000),
    ];
    assert_eq!(
        ends(1_000_000, &sizes).unwrap(),
        [1, 10_000, 100_000, 500_000, 1_000_000]
    );
    assert_eq!(ends(250, &sizes).unwrap(), [1, 3, 25, 125, 250]);
    assert_eq!(ends(3, &sizes).unwrap(), [1, 2, 3]);
    assert_eq!(ends(1, &sizes).unwrap(), [1]);
    assert_eq!(ends(0, &sizes).unwrap(), [0u64; 0]);
}

#[test]
fn a_canary_of_everybody_is_refused() {
    assert_eq!(
        ends(10, &[Size::Percent(WHOLE)]),
        Err(Error::CanaryIsEverybody { members: 10 })
    );
    assert_eq!(ends(1, &[Size::Percent(WHOLE)]).unwrap(), [1]);
}

#[test]
fn shrinking_sizes_and_percent_of_nothing_are_refused() {
    assert!(matches!(
        ends(100, &[Size::Count(10), Size::Count(5)]),
        Err(Error::NotGrowing { wave: 2, .. })
    ));
    assert!(matches!(
        ends(100, &[Size::Percent(0)]),
        Err(Error::Percent { .. })
    ));
    assert!(matches!(
        ends(100, &[Size::Count(0)]),
        Err(Error::Zero { wave: 1 })
    ));
}

fn facts(zone: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("zone".to_owned(), zone.to_owned())])
}

#[test]
fn a_wave_for_a_zone_takes_its_members_and_leaves_the_others_to_later_ones() {
    let zones: Vec<_> = ["a", "b", "a", "b", "b", "a"].map(facts).into();
    let in_zone = WaveSpec {
        zone: Some("b".into()),
        ..WaveSpec::of(Size::Percent(WHOLE), 0)
    };
    let plan = [
        WaveSpec::of(Size::Count(1), 0),
        in_zone,
        WaveSpec::of(Size::Percent(WHOLE), 0),
    ];
    let may = |facts: &BTreeMap<String, String>, at: usize| takes(&plan[at], facts);
    let assigned = assign(&zones, &plan, may).unwrap();
    assert_eq!(assigned.ends, [1, 4, 6]);
    assert_eq!(assigned.waves, [0, 1, 2, 1, 1, 2]);
    assert_eq!(assigned.specs, [0, 1, 2]);
    let error = check_everybody(&plan, &[true, false, true]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "wave 2 is for zone b, and no member is: correct it, or leave the wave out"
    );
    assert_eq!(check_everybody(&plan, &[true, true, true]), Ok(()));
}

#[test]
fn a_small_role_skips_waves_and_keeps_their_specs() {
    let sizes = [Size::Count(1), Size::Percent(10_000), Size::Percent(50_000)];
    let plan = sizes.map(|size| WaveSpec::of(size, 0));
    let assigned = assign(&[(); 4], &plan, |(), _| true).unwrap();
    assert_eq!(assigned.ends, [1, 2, 4]);
    assert_eq!(assigned.specs, [0, 2, 2]);
    let everybody = [WaveSpec::of(Size::Percent(WHOLE), 0)];
    assert_eq!(
        assign(&[(); 4], &everybody, |(), _| true),
        Err(Error::CanaryIsEverybody { members: 4 })
    );
    assert_eq!(
        assign(&[(); 1], &everybody, |(), _| true).unwrap().ends,
        [1]
    );
    assert_eq!(
        assign(&[(); 0], &plan, |(), _| true).unwrap().ends,
        [0u64; 0]
    );
}

#[test]
fn continuing_opens_the_waves_that_were_reached() {
    assert_eq!(continued(12, &[1, 10, 100]), 2);
    assert_eq!(continued(0, &[1, 10, 100]), 0);
}

#[test]
fn canaries_cover_distinct_strata_first() {
    let candidate = |n: u8, stratum: &str| Candidate {
        uid: [n; 16],
        stratum: stratum.into(),
        reachable: true,
        ahead: false,
    };
    let all = vec![
        candidate(1, "a"),
        candidate(2, "a"),
        candidate(3, "a"),
        candidate(4, "b"),
        candidate(5, "c"),
    ];
    let mut first: Vec<_> = order(all, "seed")
        .into_iter()
        .take(3)
        .map(|c| c.stratum)
        .collect();
    first.sort();
    assert_eq!(first, ["a", "b", "c"]);
}

proptest! {
    #[test]
    fn wave_sizes_add_up(members in 0u64..100_000, percents in proptest::collection::vec(1u32..=WHOLE, 0..6)) {
        let mut percents = percents;
        percents.sort_unstable();
        let sizes: Vec<_> = percents.into_iter().map(Size::Percent).collect();
        match ends(members, &sizes) {
            Ok(ends) => {
                prop_assert_eq!(ends.last().copied().unwrap_or(0), members);
                prop_assert!(ends.windows(2).all(|w| w[0] < w[1]));
                let counted = (0..members.min(2000)).filter(|p| wave_at(&ends, *p) < ends.len() as u32).count();
                prop_assert_eq!(counted as u64, members.min(2000));
            }
            Err(error) => prop_assert_eq!(error, Error::CanaryIsEverybody { members }),
        }
    }

    #[test]
    fn assigned_waves_are_the_ends(members in 0usize..500, percents in proptest::collection::vec(1u32..WHOLE, 1..6)) {
        let mut percents = percents;
        percents.sort_unstable();
        let plan: Vec<_> = percents.into_iter().map(|p| WaveSpec::of(Size::Percent(p), 0)).collect();
        let sizes: Vec<_> = plan.iter().map(|w| w.size).collect();
        let all = vec![(); members];
        match (assign(&all, &plan, |(), _| true), ends(members as u64, &sizes)) {
            (Ok(assigned), Ok(ends)) => {
                prop_assert_eq!(&assigned.ends, &ends);
                for (position, wave) in assigned.waves.iter().enumerate() {
                    prop_assert_eq!(*wave, wave_at(&ends, position as u64));
                }
            }
            (assigned, ends) => prop_assert_eq!(assigned.unwrap_err(), ends.unwrap_err()),
        }
    }

    #[test]
    fn order_keeps_every_member_once(n in 0usize..200, seed in "[a-z]{1,6}") {
        let all: Vec<_> = (0..n).map(|i| Candidate {
            uid: (i as u128 + 1).to_be_bytes(), stratum: format!("s{}", i % 5), reachable: i % 3 != 0, ahead: i % 7 == 0,
        }).collect();
        let mut uids: Vec<_> = order(all, &seed).into_iter().map(|c| c.uid).collect();
        uids.sort_unstable();
        uids.dedup();
        prop_assert_eq!(uids.len(), n);
    }
}

#[test]
fn every_refusal_of_sizes_names_the_wave_and_the_way_out() {
    let said = |members, sizes: &[Size]| ends(members, sizes).unwrap_err().to_string();
    assert_eq!(
        said(100, &[Size::Count(10), Size::Count(5)]),
        "wave 2 ends at 5 of 100 members, where wave 1 ended already: sizes are cumulative and must grow"
    );
    assert_eq!(
        said(100, &[Size::Percent(100_001)]),
        "wave 1: 100.001 % is no share of a fleet: use more than 0 % and at most 100 %"
    );
    assert_eq!(
        said(100, &[Size::Count(0)]),
        "wave 1 has size 0: use a count of at least 1, or a percentage"
    );
    assert_eq!(
        said(10, &[Size::Count(10)]),
        "the first wave takes all 10 members of the role: a canary must leave at least one; give a smaller first size"
    );
    let wave = WaveSpec {
        selector: Some("env = lab".parse().unwrap()),
        ..WaveSpec::default()
    };
    let zoned = WaveSpec {
        zone: Some("a".into()),
        ..wave.clone()
    };
    let nobody = |wave| check_everybody(&[wave], &[false]).unwrap_err().to_string();
    assert!(nobody(wave).starts_with("wave 1 is for `env = lab`, and no member is"));
    assert!(nobody(zoned).starts_with("wave 1 is for `env = lab` in zone a"));
}
