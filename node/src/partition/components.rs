//! Component lists of builds: read once on this node, for all agents that name them.

use fleet::components::Available;
use prost::Message;
use proto::opamp::AvailableComponents;
use proto::store;
use state::inventory::build::available;

use super::{Partition, body, chain};
use crate::ledger::table;

impl Partition {
    /// Reads the component lists that some agent has told and nobody has read here yet. What is no list counts as if
    /// nobody had told it.
    ///
    /// # Errors
    /// The database failed.
    pub fn read_components(&self) -> Result<(), raft::Fatal> {
        let unread: Vec<(Box<[u8]>, [u8; 32])> = {
            let columns = self.index.read();
            let unread = columns.unread.iter();
            unread.map(|(hash, at)| (hash.clone(), *at)).collect()
        };
        for (hash, address) in unread {
            let list = self.component_list(&address)?;
            self.index.tell(&hash, list);
        }
        Ok(())
    }

    /// As [`Partition::read_components`], for who goes on without them: they are unknown until they are read.
    pub fn try_read_components(&self) {
        if let Err(error) = self.read_components() {
            tracing::warn!(partition = self.ledger.name(), error = %chain(&error), "component lists cannot be read; tried again");
        }
    }

    fn component_list(&self, address: &[u8; 32]) -> Result<Available, raft::Fatal> {
        let kept: Option<(u64, store::Body)> = self.ledger.view()?.get(table::BODY, address)?;
        let bytes = kept.and_then(|(_, kept)| body::open(&kept));
        let list = bytes.and_then(|bytes| AvailableComponents::decode(bytes.as_slice()).ok());
        Ok(list.as_ref().map(available).unwrap_or_default())
    }
}
