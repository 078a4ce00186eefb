//! Bytes to messages.

use super::{LIST_MAX, OPAQUE, STRING_MAX_BYTES, UNIONS, XdrError, within};
use crate::descriptor;
use serde::de::value::U32Deserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, SeqAccess, VariantAccess, Visitor};

/// What a `u8` is at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// A number of its own.
    Numbers,
    /// Opaque data.
    Opaque,
    /// The position of a descriptor, which does not travel: they are taken in their order.
    Descriptor,
}

#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    used: usize,
    mode: Bytes,
    descriptors: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0, mode: Bytes::Numbers, descriptors: 0 }
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.used
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let end = self.used.saturating_add(count);
        let taken = self.bytes.get(self.used..end).ok_or(XdrError::Truncated(self.bytes.len()))?;
        self.used = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn number(&mut self) -> Result<u32, XdrError> {
        self.array().map(u32::from_be_bytes)
    }

    fn signed(&mut self) -> Result<i32, XdrError> {
        self.array().map(i32::from_be_bytes)
    }

    /// Skips to the next multiple of four; what the padding holds is not looked at.
    fn pad(&mut self) -> Result<(), XdrError> {
        self.take(self.used.wrapping_neg() % 4).map(drop)
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, XdrError> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(XdrError::Value { what, value }),
        }
    }

    fn counted(&mut self) -> Result<&'a [u8], XdrError> {
        let length = self.number()? as usize;
        within("string", length, STRING_MAX_BYTES)?;
        let bytes = self.take(length)?;
        self.pad()?;
        Ok(bytes)
    }

    /// Text ends at its first zero byte, as it does for libvirt's peers.
    fn text(&mut self) -> Result<&'a str, XdrError> {
        let bytes = self.counted()?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map_err(|_invalid| XdrError::Text)
    }
}

/// Elements of a list, array or struct, one after the other.
struct Elements<'a, 'b> {
    reader: &'b mut Reader<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de, '_> {
    type Error = XdrError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, XdrError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    // No `size_hint`: nothing is allocated on the word of a count.
}

/// One case of a union.
struct Case<'a, 'b> {
    reader: &'b mut Reader<'a>,
    index: u32,
}

impl<'de, 'b> EnumAccess<'de> for Case<'de, 'b> {
    type Error = XdrError;
    type Variant = &'b mut Reader<'de>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), XdrError> {
        let case = seed.deserialize(U32Deserializer::<XdrError>::new(self.index))?;
        Ok((case, self.reader))
    }
}

impl<'de> VariantAccess<'de> for &mut Reader<'de> {
    type Error = XdrError;

    fn unit_variant(self) -> Result<(), XdrError> {
        Err(XdrError::Unsupported("a case without a value"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, XdrError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, _visitor: V) -> Result<V::Value, XdrError> {
        Err(XdrError::Unsupported("a case of several values"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, XdrError> {
        Err(XdrError::Unsupported("a case of several values"))
    }
}

impl<'de> Reader<'de> {
    fn elements<V: Visitor<'de>>(&mut self, count: usize, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_seq(Elements { reader: self, left: count })
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = XdrError;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, XdrError> {
        Err(XdrError::Unsupported("a value that does not say what it is"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, XdrError> {
        Err(XdrError::Unsupported("a value that is to be skipped"))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_bool(self.flag("truth value")?)
    }

    // Narrow numbers travel as wide ones; the type's own visitor refuses what does not fit.
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_i32(self.signed()?)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_i32(self.signed()?)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_i32(self.signed()?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_i64(i64::from_be_bytes(self.array()?))
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        match self.mode {
            Bytes::Numbers => visitor.visit_u32(self.number()?),
            Bytes::Opaque => {
                let [byte] = self.array()?;
                visitor.visit_u8(byte)
            }
            Bytes::Descriptor => {
                let position = self.descriptors;
                self.descriptors = position.saturating_add(1);
                visitor.visit_u8(position)
            }
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_u32(self.number()?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_u32(self.number()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_u64(u64::from_be_bytes(self.array()?))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_f32(f32::from_be_bytes(self.array()?))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_f64(f64::from_be_bytes(self.array()?))
    }

    fn deserialize_char<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, XdrError> {
        Err(XdrError::Unsupported("a character"))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_borrowed_bytes(self.counted()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        if self.flag("flag of an optional value")? { visitor.visit_some(self) } else { visitor.visit_none() }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, XdrError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, XdrError> {
        let mode = if OPAQUE.contains(&name) {
            Bytes::Opaque
        } else if name == descriptor::NAME {
            Bytes::Descriptor
        } else {
            return visitor.visit_newtype_struct(self);
        };
        let outer = std::mem::replace(&mut self.mode, mode);
        let read = visitor.visit_newtype_struct(&mut *self);
        self.mode = outer;
        let read = read?;
        self.pad()?;
        Ok(read)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XdrError> {
        let count = self.number()? as usize;
        within("list", count, LIST_MAX)?;
        // Every element has four bytes at least: a list of nothings is none.
        if count > self.left() / 4 {
            return Err(XdrError::Truncated(self.bytes.len()));
        }
        self.elements(count, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, XdrError> {
        self.elements(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, XdrError> {
        self.elements(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, XdrError> {
        Err(XdrError::Unsupported("a map"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, XdrError> {
        self.elements(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, XdrError> {
        if !UNIONS.contains(&name) {
            return Err(XdrError::Unsupported("an enum"));
        }
        let value = self.number()?;
        match value.checked_sub(1) {
            Some(index) if (index as usize) < variants.len() => {
                visitor.visit_enum(Case { reader: self, index })
            }
            _ => Err(XdrError::Value { what: "case of a union", value }),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, XdrError> {
        Err(XdrError::Unsupported("a field's name"))
    }
}
