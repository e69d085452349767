//! Finds keys that come in rising order in an ordered map. Two maps of a million agents are held together many times
//! faster by walking beside each other than by a search for each.

use std::collections::{BTreeMap, btree_map::Range};
use std::iter::Peekable;

/// So many steps cost about as much as a search.
const STEPS: usize = 16;

/// One walk through a map.
pub struct Rising<'a, K, V> {
    map: &'a BTreeMap<K, V>,
    at: Peekable<Range<'a, K, V>>,
}

impl<'a, K: Ord + Copy, V> Rising<'a, K, V> {
    /// From the beginning.
    pub fn of(map: &'a BTreeMap<K, V>) -> Self {
        Rising {
            map,
            at: map.range(..).peekable(),
        }
    }

    /// The value of this key, which is greater than that of the call before.
    pub fn find(&mut self, key: &K) -> Option<&'a V> {
        for _ in 0..STEPS {
            if self.at.next_if(|(at, _)| *at < key).is_none() {
                return self.here(key);
            }
        }
        self.at = self.map.range(*key..).peekable();
        self.here(key)
    }

    fn here(&mut self, key: &K) -> Option<&'a V> {
        self.at
            .next_if(|(at, _)| *at == key)
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_a_search_finds_near_and_far() {
        let map: BTreeMap<u32, u32> = (0..10_000).map(|i| (i * 3, i)).collect();
        for step in [1, 2, 3, 7, 50, 1_000] {
            let mut rising = Rising::of(&map);
            for key in (0..31_000).step_by(step) {
                assert_eq!(rising.find(&key), map.get(&key), "{key} in steps of {step}");
            }
        }
    }

    #[test]
    fn an_empty_map_has_nothing() {
        let map: BTreeMap<u32, u32> = BTreeMap::new();
        assert_eq!(Rising::of(&map).find(&1), None);
    }
}
