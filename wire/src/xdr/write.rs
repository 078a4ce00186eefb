//! Messages to bytes.

use super::{LIST_MAX, OPAQUE, PAYLOAD_MAX_BYTES, STRING_MAX_BYTES, UNIONS, XdrError, within};
use crate::descriptor;
use serde::ser::{self, Impossible, Serialize, Serializer};

/// What the bytes of a `u8` are at this place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Bytes {
    /// A number of its own.
    #[default]
    Numbers,
    /// Opaque data.
    Opaque,
    /// The position of a descriptor, which does not travel.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    mode: Bytes,
}

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), XdrError> {
        within("message", self.bytes.len() + bytes.len(), PAYLOAD_MAX_BYTES)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn number(&mut self, number: u32) -> Result<(), XdrError> {
        self.put(&number.to_be_bytes())
    }

    fn pad(&mut self) -> Result<(), XdrError> {
        let missing = self.bytes.len().wrapping_neg() % 4;
        self.put(&[0; 3][..missing])
    }

    fn counted(&mut self, bytes: &[u8]) -> Result<(), XdrError> {
        within("string", bytes.len(), STRING_MAX_BYTES)?;
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX))?;
        self.put(bytes)?;
        self.pad()
    }
}

impl Serializer for &mut Writer {
    type Ok = ();
    type Error = XdrError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Impossible<(), XdrError>;
    type SerializeMap = Impossible<(), XdrError>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), XdrError>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), XdrError> {
        self.number(u32::from(value))
    }

    fn serialize_i8(self, value: i8) -> Result<(), XdrError> {
        self.serialize_i32(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), XdrError> {
        self.serialize_i32(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), XdrError> {
        self.put(&value.to_be_bytes())
    }

    fn serialize_i64(self, value: i64) -> Result<(), XdrError> {
        self.put(&value.to_be_bytes())
    }

    fn serialize_u8(self, value: u8) -> Result<(), XdrError> {
        match self.mode {
            Bytes::Numbers => self.number(value.into()),
            Bytes::Opaque => self.put(&[value]),
            Bytes::Nothing => Ok(()),
        }
    }

    fn serialize_u16(self, value: u16) -> Result<(), XdrError> {
        self.number(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), XdrError> {
        self.number(value)
    }

    fn serialize_u64(self, value: u64) -> Result<(), XdrError> {
        self.put(&value.to_be_bytes())
    }

    fn serialize_f32(self, value: f32) -> Result<(), XdrError> {
        self.put(&value.to_be_bytes())
    }

    fn serialize_f64(self, value: f64) -> Result<(), XdrError> {
        self.put(&value.to_be_bytes())
    }

    fn serialize_char(self, _value: char) -> Result<(), XdrError> {
        Err(XdrError::Unsupported("a character"))
    }

    fn serialize_str(self, value: &str) -> Result<(), XdrError> {
        self.counted(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), XdrError> {
        self.counted(value)
    }

    fn serialize_none(self) -> Result<(), XdrError> {
        self.number(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), XdrError> {
        self.number(1)?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), XdrError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), XdrError> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
    ) -> Result<(), XdrError> {
        Err(XdrError::Unsupported("an enum"))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), XdrError> {
        let mode = if OPAQUE.contains(&name) {
            Bytes::Opaque
        } else if name == descriptor::NAME {
            Bytes::Nothing
        } else {
            return value.serialize(self);
        };
        let outer = std::mem::replace(&mut self.mode, mode);
        let written = value.serialize(&mut *self);
        self.mode = outer;
        written?;
        self.pad()
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), XdrError> {
        if !UNIONS.contains(&name) {
            return Err(XdrError::Unsupported("an enum"));
        }
        self.number(index + 1)?;
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self, XdrError> {
        let length = length.ok_or(XdrError::Unsupported("a list of unknown length"))?;
        within("list", length, LIST_MAX)?;
        self.number(u32::try_from(length).unwrap_or(u32::MAX))?;
        Ok(self)
    }

    fn serialize_tuple(self, _length: usize) -> Result<Self, XdrError> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _name: &'static str, _length: usize) -> Result<Self, XdrError> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _length: usize,
    ) -> Result<Self::SerializeTupleVariant, XdrError> {
        Err(XdrError::Unsupported("an enum"))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Self::SerializeMap, XdrError> {
        Err(XdrError::Unsupported("a map"))
    }

    fn serialize_struct(self, _name: &'static str, _length: usize) -> Result<Self, XdrError> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _length: usize,
    ) -> Result<Self::SerializeStructVariant, XdrError> {
        Err(XdrError::Unsupported("an enum"))
    }
}

impl ser::SerializeSeq for &mut Writer {
    type Ok = ();
    type Error = XdrError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), XdrError> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), XdrError> {
        Ok(())
    }
}

impl ser::SerializeTuple for &mut Writer {
    type Ok = ();
    type Error = XdrError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), XdrError> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), XdrError> {
        Ok(())
    }
}

impl ser::SerializeTupleStruct for &mut Writer {
    type Ok = ();
    type Error = XdrError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), XdrError> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), XdrError> {
        Ok(())
    }
}

impl ser::SerializeStruct for &mut Writer {
    type Ok = ();
    type Error = XdrError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), XdrError> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), XdrError> {
        Ok(())
    }
}
