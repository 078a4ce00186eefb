//! What people and programs keep with a network.

use crate::Networks;
use crate::definition::Definition;
use crate::environment::Phase;
use crate::error::{error, invalid, no_flags};
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::table::network::{network_get_metadata, network_set_metadata};
use bulkhead_wire::types::network::NetworkEvent;
use bulkhead_xml::Element;
use bulkhead_xml::metadata::{bare, elements, keyed, metadata, with_element};
use std::sync::Arc;

/// `virNetworkMetadataType`.
const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;
/// `virNetworkUpdateFlags`.
const LIVE: u32 = 1;
const CONFIG: u32 = 2;

/// A root with what a definition keeps.
fn root_of(definition: &Definition) -> Element {
    let root = Element::new("network");
    match definition.metadata() {
        Some(content) => root.with_child(metadata(content.to_owned())),
        None => root,
    }
}

/// What is to be set.
enum Wanted {
    Title(Option<String>),
    Description(Option<String>),
    Element(String, Option<Element>),
}

impl Wanted {
    fn apply(&self, definition: &Definition) -> Arc<Definition> {
        let mut definition = definition.clone();
        match self {
            Self::Title(text) => definition.title.clone_from(text),
            Self::Description(text) => definition.description.clone_from(text),
            Self::Element(uri, element) => {
                let content = with_element(&root_of(&definition), uri, element.as_ref());
                definition.set_metadata(content);
            }
        }
        Arc::new(definition)
    }
}

impl Networks {
    pub(super) fn metadata(&self, arguments: &network_get_metadata::Arguments) -> Result<String, Error> {
        no_flags(arguments.flags, LIVE | CONFIG)?;
        let view = self.environment.named(&arguments.network)?.view.get();
        if arguments.flags & LIVE != 0 && !view.active {
            return Err(invalid(format!("Network '{}' is not active", view.definition.name)));
        }
        if arguments.flags & CONFIG != 0 && !view.persistent {
            return Err(invalid(format!("Network '{}' is transient", view.definition.name)));
        }
        let definition = if arguments.flags & CONFIG != 0 { view.configured() } else { &view.definition };
        let wrong = |why: &str| error(Code::INVALID_ARG, format!("Network '{}': {why}", definition.name));
        let found = match (arguments.kind, &arguments.uri) {
            (DESCRIPTION, _) => definition.description.clone(),
            (TITLE, _) => definition.title.clone(),
            (ELEMENT, Some(uri)) => {
                let all = elements(&root_of(definition));
                all.iter().find(|element| element.namespace.as_ref() == Some(uri)).map(bare)
            }
            (ELEMENT, None) => return Err(wrong("name the namespace of the metadata")),
            _ => return Err(wrong("there is no metadata of that kind")),
        };
        let missing = || {
            error(Code::NO_NETWORK_METADATA, format!("Network '{}' has no such metadata", definition.name))
        };
        found.ok_or_else(missing)
    }

    pub(super) async fn set_metadata(&self, arguments: network_set_metadata::Arguments) -> Result<(), Error> {
        let network_set_metadata::Arguments { network, kind, metadata: given, key, uri, flags } = arguments;
        no_flags(flags, LIVE | CONFIG)?;
        let network = self.environment.named(&network)?;
        let name = network.name.clone();
        let refuse = |code, why: String| error(code, format!("Network '{name}': {why}"));
        let text = given.filter(|text| !text.is_empty());
        let wanted = match (kind, &uri) {
            (DESCRIPTION, _) => Wanted::Description(text),
            (TITLE, _) if text.as_ref().is_some_and(|text| text.contains('\n')) => {
                return Err(refuse(Code::INVALID_ARG, "its title can't hold a line break".to_owned()));
            }
            (TITLE, _) => Wanted::Title(text),
            (ELEMENT, Some(uri)) => {
                let element = match &text {
                    None => None,
                    Some(text) => {
                        let element = keyed(text, &key.unwrap_or_default(), uri)
                            .map_err(|fault| refuse(Code::XML_DETAIL, format!("metadata: {fault}")))?;
                        let needed =
                            || refuse(Code::INVALID_ARG, "metadata need a key, their prefix".to_owned());
                        Some(element.ok_or_else(needed)?)
                    }
                };
                Wanted::Element(uri.clone(), element)
            }
            (ELEMENT, None) => {
                return Err(refuse(Code::INVALID_ARG, "name the namespace of the metadata".to_owned()));
            }
            _ => return Err(refuse(Code::INVALID_ARG, "there is no metadata of that kind".to_owned())),
        };
        network
            .turn(&self.environment, "set metadata", move |network, environment| async move {
                let view = network.view.get();
                let (live, config) = match flags {
                    0 => (view.active, !view.active),
                    flags => (flags & LIVE != 0, flags & CONFIG != 0),
                };
                if live && !view.active {
                    return Err(invalid(format!("Network '{}' is not active", network.name)));
                }
                if config && !view.persistent {
                    return Err(invalid(format!("Network '{}' is transient", network.name)));
                }
                let now = live.then(|| wanted.apply(&view.definition));
                let next = config.then(|| wanted.apply(view.configured()));
                if let Some(next) = &next {
                    environment.write_definition(&network.name, next.to_xml()).await?;
                }
                network.change(|view| {
                    if let Some(now) = now {
                        view.definition = now;
                    }
                    match (next, view.active) {
                        (Some(next), true) => view.next = Some(next),
                        (Some(next), false) => view.definition = next,
                        (None, _) => {}
                    }
                });
                if live {
                    let record = network.view.get().record(Phase::Running);
                    environment.write_record(&network.name, &record).await?;
                }
                environment.tell(&NetworkEvent::Metadata { network: network.to_ref(), kind, uri });
                Ok(())
            })
            .await
    }
}
