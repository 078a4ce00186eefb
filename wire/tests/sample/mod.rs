//! One sample of any wire type, made by answering its own questions; and what the questions were.

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, SeqAccess, VariantAccess, Visitor};
use std::fmt::Display;

/// The type has no such variant, or asks for something that no wire type may ask for.
#[derive(Debug)]
pub(crate) struct NoSample(pub(crate) String);

impl Display for NoSample {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NoSample {}

impl de::Error for NoSample {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Answers a type's questions with fixed values, different ones in a row.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// Which variant the outermost enum gets; those inside get their first.
    variant: u32,
    /// The primitives that were asked for, in order.
    asked: Vec<String>,
    count: u8,
    inside: bool,
    descriptors: u8,
    position: bool,
    opaque: bool,
}

impl Sampler {
    fn next(&mut self, what: &str) -> u8 {
        if !self.opaque {
            self.asked.push(what.to_owned());
        }
        self.count = self.count % 100 + 1;
        self.count
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
            let number = self.next(stringify!($type));
            visitor.$visit(<$type>::try_from(number).unwrap())
        })*
    };
}

struct Elements<'a>(&'a mut Sampler, usize);

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = NoSample;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NoSample> {
        if self.1 == 0 {
            return Ok(None);
        }
        self.1 -= 1;
        seed.deserialize(&mut *self.0).map(Some)
    }
}

impl<'de> EnumAccess<'de> for &mut Sampler {
    type Error = NoSample;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), NoSample> {
        let index = if self.inside { 0 } else { self.variant };
        self.inside = true;
        self.asked.push("enum".to_owned());
        let variant = seed.deserialize(de::value::U32Deserializer::<NoSample>::new(index))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Sampler {
    type Error = NoSample;

    fn unit_variant(self) -> Result<(), NoSample> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NoSample> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_seq(Elements(self, length))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        visitor.visit_seq(Elements(self, fields.len()))
    }
}

impl<'de> Deserializer<'de> for &mut Sampler {
    type Error = NoSample;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NoSample> {
        Err(NoSample("a wire type must say what it is made of".to_owned()))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        self.next("bool");
        visitor.visit_bool(true)
    }

    numbers!(deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_f32 visit_f32 f32, deserialize_f64 visit_f64 f64);

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        if self.position {
            self.descriptors += 1;
            return visitor.visit_u8(self.descriptors - 1);
        }
        let number = self.next("u8");
        visitor.visit_u8(number)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        let number = self.next("string");
        visitor.visit_string(format!("text{number}"))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        let number = self.next("bytes");
        visitor.visit_byte_buf(vec![number; 3])
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        self.asked.push("optional".to_owned());
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        let outer = (self.position, self.opaque);
        self.position = name == bulkhead_wire::descriptor::NAME;
        self.opaque |= bulkhead_wire::xdr::OPAQUE.contains(&name);
        if self.opaque {
            self.asked.push("opaque".to_owned());
        }
        let value = visitor.visit_newtype_struct(&mut *self);
        (self.position, self.opaque) = outer;
        value
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoSample> {
        self.asked.push("list".to_owned());
        let before = (self.asked.len(), self.descriptors);
        let list = visitor.visit_seq(Elements(&mut *self, 1))?;
        // Elements without bytes would let a short message claim billions of them.
        assert_ne!(before, (self.asked.len(), self.descriptors), "a list of nothings");
        Ok(list)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, NoSample> {
        visitor.visit_seq(Elements(self, length))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        visitor.visit_seq(Elements(self, fields.len()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoSample> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        char bytes unit_struct tuple_struct map identifier ignored_any
    }
}

/// A sample of a type, with open files where it has descriptors, and the primitives that it is made of.
///
/// # Errors
/// The type has no variant of that number.
pub(crate) fn sample<T: de::DeserializeOwned>(variant: u32) -> Result<(T, Vec<String>), NoSample> {
    let mut sampler = Sampler { variant, ..Sampler::default() };
    let files = (0..8).map(|_| std::fs::File::open("/dev/null").unwrap().into());
    let (value, _) = bulkhead_wire::descriptor::supplying(files.collect(), || T::deserialize(&mut sampler));
    value.map(|value| (value, sampler.asked))
}
