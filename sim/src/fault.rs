//! Deliberate mistakes. Each is made in one place of the code, where it asks for its own; without any, that place does
//! what the server does.

/// A mistake that a checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A vote is answered before it is on disk.
    VoteNotSynced,
    /// Who has lost its disk goes on under its id.
    IdReused,
    /// Entries count as flushed before they are on disk.
    AckBeforeFlush,
    /// State and applied position are two writes.
    ApplyWithoutIndex,
    /// Offers are authorised without a program lease, and partitions accept those of any program.
    FenceForgotten,
    /// Whoever is claimed by another family goes there, as if a person had said so.
    OwnerByClaim,
    /// What a person says of an owner is stored without the program that it was said by.
    WordWithoutEpoch,
    /// Whoever does not answer the controller is taken to use only what it is seen to have in flight.
    GivenForgotten,
    /// Whoever does not say that it runs what it should is offered it.
    OfferByMismatch,
}
