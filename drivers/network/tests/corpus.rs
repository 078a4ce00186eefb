//! Network XML of many kinds against what stock libvirt makes of it: taken or refused with the same code, and written the same.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_network::catalog::{Known, complete};
use bulkhead_network::definition::Definition;
use bulkhead_wire::error::Error;
use bulkhead_wire::types::Uuid;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A host's first network, which stock has from the start; some cases clash with it on purpose.
const DEFAULT: &str = "<network><name>default</name><uuid>1fead771-de36-438f-b807-efeedb6e4a52</uuid><bridge name='virbr0'/></network>";

#[expect(clippy::print_stdout, reason = "the runner counts these lines")]
fn corpus() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let shared =
        std::env::var_os("BULKHEAD_SHARED").map_or_else(|| repository.join("../shared"), PathBuf::from);
    let folder = shared.join("corpus");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

/// A case: its name, its input, and what stock did: an error's code and origin, or what it wrote.
struct Case {
    name: String,
    input: String,
    stock: Result<String, (i64, i64)>,
}

fn cases(folder: &Path, kind: &str) -> Vec<Case> {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let cases = expected["cases"].as_object().unwrap();
    let of_kind = cases.iter().filter(|(name, case)| name.starts_with(kind) && case["status"] == "ok");
    of_kind
        .map(|(name, case)| {
            let input = std::fs::read(folder.join(format!("{name}.xml"))).unwrap();
            let error = &case["steps"]["define"]["error"];
            let stock = match (error["code"].as_i64(), error["domain"].as_i64()) {
                (Some(code), Some(origin)) => Err((code, origin)),
                _ => Ok(case["steps"]["dump"]["out"].as_str().unwrap().to_owned()),
            };
            Case { name: name.clone(), input: String::from_utf8_lossy(&input).into_owned(), stock }
        })
        .collect()
}

/// What stock answered to input that was written for these tests.
fn own_cases() -> Vec<Case> {
    let lines = include_str!("stock.jsonl").lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|case| Case {
            name: case["name"].as_str().unwrap().to_owned(),
            input: case["xml"].as_str().unwrap().to_owned(),
            stock: match case["dump"].as_str() {
                Some(dump) => Ok(dump.to_owned()),
                None => Err((case["code"].as_i64().unwrap(), case["origin"].as_i64().unwrap())),
            },
        })
        .collect()
}

fn define(input: &str) -> Result<Definition, Error> {
    let default = Definition::read(DEFAULT, false, Uuid::default).unwrap();
    let mut definition = Definition::read(input, false, || Uuid([7; 16]))?;
    complete(&mut definition, &[Known::of(&default, false)], &|_| false, || [0; 3])?;
    Ok(definition)
}

/// Without what was made up: the uuid, and the bridge's address.
fn comparable(xml: &str, input: &str) -> String {
    let made_up = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("<uuid>") && !input.contains("<uuid>")
            || line.starts_with("<mac address=") && !input.contains("<mac address=")
    };
    let lines = xml.lines().filter(|line| !made_up(line));
    // Stock writes others' elements anew, with other quotes.
    lines
        .map(|line| if line.contains("xmlns:") { line.replace('"', "'") } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}

#[derive(Default)]
struct Figures {
    agreed: usize,
    coded: usize,
    refused: usize,
    same: usize,
    written: usize,
}

#[expect(clippy::print_stdout, reason = "figures are for people")]
fn compare(what: &str, cases: &[Case]) {
    let mut figures = Figures::default();
    for Case { name, input, stock } in cases {
        match (define(input), stock) {
            (Ok(definition), Ok(dump)) => {
                figures.agreed += 1;
                figures.written += 1;
                let (ours, stock) = (comparable(&definition.to_xml(), input), comparable(dump, input));
                figures.same += usize::from(ours == stock);
                if ours != stock {
                    println!("{name}:\n{ours}\nstock:\n{stock}");
                }
                // What was written is read, and then stays as it is.
                let again = |xml: &str| Definition::read(xml, false, Uuid::default).unwrap().to_xml();
                let once = again(&definition.to_xml());
                assert_eq!(again(&once), once, "{name}");
            }
            (Err(error), Err(code)) => {
                figures.agreed += 1;
                figures.refused += 1;
                let fits = (i64::from(error.code.0), i64::from(error.origin.0)) == *code;
                figures.coded += usize::from(fits);
                if !fits {
                    println!("{name}: {error:?}, stock {code:?}");
                }
            }
            (ours, stock) => {
                println!("{name}: {:?}, stock {stock:?}\n{input}", ours.map(|ours| ours.to_xml()));
            }
        }
    }
    let Figures { agreed, coded, refused, same, written } = figures;
    println!(
        "figure: {what}: {agreed} of {} agree, {coded} of {refused} codes, {same} of {written} XML",
        cases.len()
    );
    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    assert!(
        share(agreed, cases.len()) >= 98.0 && share(coded, refused) >= 95.0 && share(same, written) >= 98.0
    );
}

#[test]
fn networks_are_taken_refused_and_written_as_stock_does_it() {
    let Some(folder) = corpus() else { return };
    compare(
        "networks",
        &[cases(&folder, "network/"), cases(&folder, "malformed/network-")]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
    );
}

#[test]
fn each_rule_of_a_definition_is_stocks() {
    compare("rules of networks", &own_cases());
}

#[test]
fn what_would_become_something_else_is_refused() {
    let Some(folder) = corpus() else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(folder.join("defect")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("network-") {
            continue;
        }
        seen += 1;
        let error = define(&std::fs::read_to_string(entry.path()).unwrap()).unwrap_err();
        assert!(error.message.contains("line 1, column"), "{name}: {error}");
    }
    assert!(seen >= 6, "{seen} inputs");
}

#[test]
fn no_attribute_and_no_text_carries_a_line_break() {
    // Each place where text can stand gets one.
    let whole = "<network ipv6='yes'><name>n</name><forward mode='nat' dev='eth0'><nat><address start='1.2.3.4' end='1.2.3.5'/>\
        <port start='1024' end='2048'/></nat></forward><bridge name='br' zone='z' stp='on' delay='0'/><mac address='52:54:00:00:00:01'/>\
        <domain name='d' localOnly='yes'/><dns><forwarder domain='f' addr='1.2.3.4'/><txt name='t' value='v'/>\
        <srv service='s' protocol='tcp' domain='d' target='t' port='1' priority='2' weight='3'/>\
        <host ip='10.0.0.9'><hostname>h</hostname></host></dns><ip address='10.0.0.1' prefix='24'><tftp root='/t'/><dhcp>\
        <range start='10.0.0.2' end='10.0.0.3'/><host mac='52:54:00:00:00:02' name='h' ip='10.0.0.4'/><bootp file='f' server='10.0.0.5'/>\
        </dhcp></ip><portgroup name='p'/></network>";
    define(whole).unwrap();
    let mut places = 0;
    for (at, _) in whole.match_indices("='") {
        places += 1;
        for bad in ["&#10;", "&#13;", "&#9;", "&#127;", "&#x85;"] {
            let input = format!("{}{bad}{}", &whole[..at + 2], &whole[at + 2..]);
            assert!(define(&input).is_err(), "{input}");
        }
    }
    assert!(places > 30, "{places}");
    for text in ["<name>n", "<hostname>h"] {
        assert!(define(&whole.replace(text, &format!("{text}&#10;dhcp-script=/x"))).is_err());
    }
}

#[test]
fn what_is_malformed_is_refused_with_line_and_element() {
    for (input, line, element) in [
        ("<network>\n<name>n</name>\n<ip address='1", "line 3", "<ip>"),
        ("<network>\n<name>n</nam></network>", "line 2", "<name>"),
        ("<network>\n<name>n</name>\n<bridge delay='x'/></network>", "line 3", "<bridge>"),
    ] {
        let error = define(input).unwrap_err();
        assert!(error.message.contains(line) && error.message.contains(element), "{error}");
    }
}

#[test]
fn the_schema_refuses_what_is_not_known() {
    let strict = |input: &str| Definition::read(input, true, Uuid::default).map(drop);
    strict("<network><name>n</name><forward mode='nat'/><ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.3'>\
        <lease expiry='2' unit='hours'/></range></dhcp></ip><metadata><a:b xmlns:a='u' c='d'/></metadata></network>").unwrap();
    for input in [
        "<network><name>n</name><bogus/></network>",
        "<network bogus='1'><name>n</name></network>",
        "<network><name>n</name><bridge name='b'/><bridge name='c'/></network>",
        "<network><name>n</name><bridge stp='maybe'/></network>",
        "<network><name>n</name><mac/></network>",
    ] {
        assert_eq!(strict(input).unwrap_err().code.0, 92, "{input}");
    }
}
