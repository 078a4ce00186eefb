//! Command lines for a whole corpus: reads the recorded answers of stock libvirt, makes our own command line from each
//! domain's dump, and writes them as answers of the same form, for `corpus-compare`.
//!
//! `argv EXPECTED.json GOT.json [CASE]`; with CASE its command line is printed too.
//! `argv --launch DOMAIN.xml` prints the form in which a guest is started, an argument to a line.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

#[path = "../tests/probe/mod.rs"]
mod probe;

use bulkhead_qemu::args::{Rendering, build};
use probe::{Probes, paths, read_domain};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, launch, file] = arguments.as_slice()
        && launch == "--launch"
    {
        return print_launch(file);
    }
    let (Some(expected), Some(got)) = (arguments.get(1), arguments.get(2)) else {
        return Err("usage: argv EXPECTED.json GOT.json [CASE]".into());
    };
    let mut answers: Value = serde_json::from_slice(&std::fs::read(expected)?)?;
    let mut probes = Probes::new(&answers);
    let mut failed = 0;
    let cases = answers["cases"].as_object_mut().ok_or("no cases")?;
    for (name, case) in cases.iter_mut() {
        let wanted = name.starts_with("domain/") && case["steps"]["native"]["out"].is_string();
        let Some(dump) = case["steps"]["secure"]["out"]
            .as_str()
            .or_else(|| case["steps"]["dump"]["out"].as_str())
            .filter(|_| wanted)
            .map(str::to_owned)
        else {
            continue;
        };
        let root = read_domain(&dump)?;
        let line = probes
            .capabilities(&root)
            .and_then(|capabilities| Ok(build(&root, capabilities, &paths(&root))?));
        let step = match line {
            Ok(line) => json!({"out": line.to_shell()}),
            Err(error) => {
                failed += 1;
                println!("{name}: {error}");
                json!({"error": {"code": 1, "domain": 10, "message": error.to_string()}})
            }
        };
        if arguments.get(3).is_some_and(|case| case == name) {
            println!("{}", step["out"].as_str().unwrap_or_default().replace(" -", "\n -"));
        }
        case["steps"]["native"] = step;
    }
    println!("{failed} without a command line");
    std::fs::write(got, serde_json::to_vec(&answers)?)?;
    Ok(())
}

fn print_launch(file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let root = read_domain(&std::fs::read_to_string(file)?)?;
    let mut probes = Probes::new(&Value::Null);
    let mut paths = paths(&root);
    paths.rendering = Rendering::Launch;
    let line = build(&root, probes.capabilities(&root)?, &paths)?;
    for argument in &line.arguments {
        println!("{argument}");
    }
    for used in &line.descriptors {
        println!("# {} is {:?}", used.number, used.purpose);
    }
    Ok(())
}
