//! Looks through the bytes of an AgentToServer before anything is decoded: no allocation, bounded depth.
//!
//! It refuses what is malformed or over a limit of structure, and tells the little that an answer from memory
//! needs. It is at least as strict as the decoder: what passes here decodes.

use crate::limits::Limits;

/// What an answer from memory needs to know of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outline<'a> {
    /// As sent; any length.
    pub instance_uid: &'a [u8],
    /// Zero when absent.
    pub sequence_num: u64,
    /// Zero when not stated.
    pub capabilities: u64,
    /// Nothing but identity, number, capabilities, custom message, unknown fields.
    pub bare: bool,
    /// The agent says that it leaves.
    pub disconnect: bool,
}

/// Why bytes are refused. The text goes to the agent.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// A field goes beyond the end of what holds it.
    #[error("the message ends within a field")]
    Truncated,
    /// More than 64 bits.
    #[error("the message holds a number that does not end within 64 bits")]
    Varint,
    /// Field 0, groups, reserved wire types, or a known field of another type.
    #[error("the message holds a field of an unexpected type")]
    Field,
    /// Strings are UTF-8.
    #[error("the message holds a string that is not UTF-8")]
    Utf8,
    /// Limit `depth`.
    #[error("the message is nested deeper than {0} levels (limit depth)")]
    Depth(u32),
    /// Limit `fields`.
    #[error("the message holds more than {0} fields (limit fields)")]
    Fields(u32),
    /// Limit `string_bytes`.
    #[error("the message holds a string of more than {0} bytes (limit string_bytes)")]
    String(usize),
    /// Limit `map_entries`.
    #[error("the message holds a map or list of more than {0} entries (limit map_entries)")]
    Entries(u32),
}

/// Walks the whole message.
pub fn scan<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Outline<'a>, WireError> {
    let mut walk = Walk { limits, fields: 0 };
    let mut outline = Outline {
        bare: true,
        ..Outline::default()
    };
    let mut flags = 0;
    let mut cursor = Cursor(bytes);
    while let Some((number, wire)) = cursor.tag()? {
        walk.count()?;
        match (number, wire) {
            (1, LEN) => outline.instance_uid = cursor.chunk()?,
            (2, VARINT) => outline.sequence_num = cursor.varint()?,
            (4, VARINT) => outline.capabilities = cursor.varint()?,
            (10, VARINT) => flags = cursor.varint()?,
            _ => {
                walk.field(Shape::Agent, number, wire, &mut cursor, 0)?;
                outline.disconnect |= number == 9;
                outline.bare &= !matches!(number, 3 | 5..=9 | 11 | 12 | 14 | 15);
            }
        }
    }
    outline.bare &= flags == 0;
    Ok(outline)
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LEN: u8 = 2;
const FIXED32: u8 = 5;

/// The messages that an agent may send, as far as their fields differ in kind.
#[derive(Clone, Copy)]
enum Shape {
    Agent,
    Description,
    KeyValue,
    AnyValue,
    Array,
    KeyValueList,
    Health,
    HealthEntry,
    EffectiveConfig,
    ConfigMap,
    ConfigEntry,
    ConfigObject,
    Status,
    Packages,
    PackageEntry,
    Package,
    PackageDetails,
    Empty,
    SettingsRequest,
    OpampRequest,
    CertificateRequest,
    Strings,
    CustomMessage,
    Components,
    ComponentEntry,
    Component,
}

enum Kind {
    Number,
    Fixed,
    Bytes,
    Text,
    /// One message.
    One(Shape),
    /// A repeated message or a map.
    Many(Shape),
    /// Repeated text.
    Texts,
    Unknown,
}

// === impl Shape ===

impl Shape {
    /// The kind of a field. Transcribed from opamp.proto and anyvalue.proto.
    fn kind(self, number: u32) -> Kind {
        use Kind::{Bytes, Fixed, Many, Number, One, Text, Texts, Unknown};
        use Shape::*;
        match (self, number) {
            (Agent, 1) => Bytes,
            (Agent, 2 | 4 | 10) => Number,
            (Agent, 3) => One(Description),
            (Agent, 5) => One(Health),
            (Agent, 6) => One(EffectiveConfig),
            (Agent, 7 | 15) => One(Status),
            (Agent, 8) => One(Packages),
            (Agent, 9) => One(Empty),
            (Agent, 11) => One(SettingsRequest),
            (Agent, 12) => One(Strings),
            (Agent, 13) => One(CustomMessage),
            (Agent, 14) => One(Components),
            (Description, 1 | 2) => Many(KeyValue),
            (KeyValue, 1) => Text,
            (KeyValue, 2) => One(AnyValue),
            (AnyValue, 1) => Text,
            (AnyValue, 2 | 3) => Number,
            (AnyValue, 4) => Fixed,
            (AnyValue, 5) => One(Array),
            (AnyValue, 6) => One(KeyValueList),
            (AnyValue, 7) => Bytes,
            (Array, 1) => Many(AnyValue),
            (KeyValueList, 1) => Many(KeyValue),
            (Health, 1) => Number,
            (Health, 2 | 5) => Fixed,
            (Health, 3 | 4) => Text,
            (Health, 6) => Many(HealthEntry),
            (Health, 7) => Many(KeyValue),
            (HealthEntry | ConfigEntry | PackageEntry | ComponentEntry, 1) => Text,
            (HealthEntry, 2) => One(Health),
            (EffectiveConfig, 1) => One(ConfigMap),
            (ConfigMap, 1) => Many(ConfigEntry),
            (ConfigEntry, 2) => One(ConfigObject),
            (ConfigObject, 1) => Bytes,
            (ConfigObject, 2 | 3) => Text,
            (Status, 1) => Bytes,
            (Status, 2) => Number,
            (Status, 3) => Text,
            (Packages, 1) => Many(PackageEntry),
            (Packages, 2) => Bytes,
            (Packages, 3) => Text,
            (PackageEntry, 2) => One(Package),
            (Package, 1 | 2 | 4 | 7) => Text,
            (Package, 3 | 5) => Bytes,
            (Package, 6) => Number,
            (Package, 8) => One(PackageDetails),
            (PackageDetails, 1 | 2) => Fixed,
            (SettingsRequest, 1) => One(OpampRequest),
            (OpampRequest, 1) => One(CertificateRequest),
            (CertificateRequest, 1) => Bytes,
            (Strings, 1) => Texts,
            (CustomMessage, 1 | 2) => Text,
            (CustomMessage, 3) => Bytes,
            (Components, 1) => Many(ComponentEntry),
            (Components, 2) => Bytes,
            (ComponentEntry, 2) => One(Component),
            (Component, 1) => Many(KeyValue),
            (Component, 2) => Many(ComponentEntry),
            _ => Unknown,
        }
    }

    /// The shapes that hold themselves.
    fn recurs(self) -> bool {
        matches!(self, Shape::Health | Shape::Component | Shape::AnyValue)
    }
}

struct Walk<'l> {
    limits: &'l Limits,
    fields: u32,
}

// === impl Walk ===

impl Walk<'_> {
    fn count(&mut self) -> Result<(), WireError> {
        self.fields += 1;
        if self.fields > self.limits.fields {
            Err(WireError::Fields(self.limits.fields))
        } else {
            Ok(())
        }
    }

    /// `depth` counts the recursive messages around this one; the others nest a fixed few levels.
    fn message(&mut self, shape: Shape, bytes: &[u8], mut depth: u32) -> Result<(), WireError> {
        if shape.recurs() {
            depth += 1;
            if depth > self.limits.depth {
                return Err(WireError::Depth(self.limits.depth));
            }
        }
        let mut cursor = Cursor(bytes);
        let mut entries = [0u32; 2]; // no message has more than two maps or lists, of adjacent numbers
        while let Some((number, wire)) = cursor.tag()? {
            self.count()?;
            if self.field(shape, number, wire, &mut cursor, depth)? {
                let count = &mut entries[(number % 2) as usize];
                *count += 1;
                if *count > self.limits.map_entries {
                    return Err(WireError::Entries(self.limits.map_entries));
                }
            }
        }
        Ok(())
    }

    /// Passes over one field; says whether it is an entry of a map or list.
    fn field(
        &mut self,
        shape: Shape,
        number: u32,
        wire: u8,
        cursor: &mut Cursor<'_>,
        depth: u32,
    ) -> Result<bool, WireError> {
        match (shape.kind(number), wire) {
            (Kind::Number, VARINT) => cursor.varint().map(|_| false),
            (Kind::Fixed, FIXED64) => cursor.take(8).map(|_| false),
            (Kind::Bytes, LEN) => cursor.chunk().map(|_| false),
            (Kind::Text, LEN) => self.text(cursor.chunk()?).map(|()| false),
            (Kind::Texts, LEN) => self.text(cursor.chunk()?).map(|()| true),
            (Kind::One(inner), LEN) => self.message(inner, cursor.chunk()?, depth).map(|()| false),
            (Kind::Many(inner), LEN) => self.message(inner, cursor.chunk()?, depth).map(|()| true),
            (Kind::Unknown, wire) => cursor.skip(wire).map(|()| false),
            _ => Err(WireError::Field),
        }
    }

    fn text(&self, bytes: &[u8]) -> Result<(), WireError> {
        if bytes.len() > self.limits.string_bytes {
            return Err(WireError::String(self.limits.string_bytes));
        }
        std::str::from_utf8(bytes)
            .map(|_| ())
            .map_err(|_| WireError::Utf8)
    }
}

struct Cursor<'a>(&'a [u8]);

// === impl Cursor ===

impl<'a> Cursor<'a> {
    /// The next field's number and wire type, or the end.
    fn tag(&mut self) -> Result<Option<(u32, u8)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| WireError::Field)?;
        let (number, wire) = (key >> 3, (key & 7) as u8);
        if number == 0 {
            Err(WireError::Field)
        } else {
            Ok(Some((number, wire)))
        }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (i, byte) in self.0.iter().enumerate().take(10) {
            if i == 9 && *byte > 1 {
                return Err(WireError::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 {
            WireError::Truncated
        } else {
            WireError::Varint
        })
    }

    fn chunk(&mut self) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, wire: u8) -> Result<(), WireError> {
        match wire {
            VARINT => self.varint().map(|_| ()),
            FIXED64 => self.take(8).map(|_| ()),
            LEN => self.chunk().map(|_| ()),
            FIXED32 => self.take(4).map(|_| ()),
            _ => Err(WireError::Field),
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
