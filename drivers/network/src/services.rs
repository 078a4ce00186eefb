//! What serves a network's guests names, addresses and files: dnsmasq's configuration, and the leases that it keeps. Pure.
//!
//! Every value passes through one writer, which knows what would mean something else in its place.

use crate::definition::address::{mask_of, network_of};
use crate::definition::forward::Mode;
use crate::definition::ip::{Host, Ip, LeaseTime};
use crate::definition::{Definition, dns::Dns};
use crate::error::unsupported;
use crate::name::Mac;
use bulkhead_wire::error::Error;
use bulkhead_wire::types::network::Lease;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// Files in the folder of a network's services.
pub(crate) const CONFIG: &str = "dnsmasq.conf";
pub(crate) const HOSTS: &str = "hosts.d";
pub(crate) const NAMES: &str = "names.d";
/// The one file in each of those two folders, in which dnsmasq sees by itself what is added.
pub(crate) const LIST: &str = "all";
pub(crate) const LEASES: &str = "leases";
pub(crate) const READY: &str = "pid";
/// Most leases that are looked at; libvirt's protocol can't list more.
const LEASES_MAX: usize = 65_536;
/// Longest name of a host.
const NAME_BYTES: usize = 253;

/// Options of dnsmasq that definitions may add lines of: none of them starts a program, reads another file, or changes whom
/// dnsmasq is and listens to.
#[rustfmt::skip]
const OPTIONS: &[&str] = &[
    "address", "alias", "all-servers", "auth-peer", "auth-sec-servers", "auth-server", "auth-soa", "auth-ttl", "auth-zone",
    "bogus-nxdomain", "bogus-priv", "bootp-dynamic", "caa-record", "cache-size", "cname", "dhcp-alternate-port",
    "dhcp-authoritative", "dhcp-boot", "dhcp-broadcast", "dhcp-circuitid", "dhcp-client-update", "dhcp-fqdn",
    "dhcp-generate-names", "dhcp-host", "dhcp-ignore", "dhcp-ignore-clid", "dhcp-ignore-names", "dhcp-lease-max", "dhcp-mac",
    "dhcp-match", "dhcp-name-match", "dhcp-no-override", "dhcp-option", "dhcp-option-force", "dhcp-option-pxe", "dhcp-proxy",
    "dhcp-pxe-vendor", "dhcp-range", "dhcp-rapid-commit", "dhcp-remoteid", "dhcp-reply-delay", "dhcp-sequential-ip",
    "dhcp-subscrid", "dhcp-ttl", "dhcp-userclass", "dhcp-vendorclass", "dns-forward-max", "dns-loop-detect", "dns-rr",
    "domain", "domain-needed", "dynamic-host", "edns-packet-max", "enable-ra", "expand-hosts", "filter-A",
    "filter-AAAA", "filterwin2k", "host-record", "ignore-address", "interface-name", "local", "local-service",
    "local-ttl", "localise-queries", "log-dhcp", "log-queries", "max-cache-ttl", "max-port", "max-ttl", "min-cache-ttl",
    "min-port", "mx-host", "mx-target", "naptr-record", "neg-ttl", "no-hosts", "no-negcache", "no-ping", "no-poll",
    "no-resolv", "no-round-robin", "ptr-record", "pxe-prompt", "pxe-service", "query-port", "quiet-dhcp", "quiet-dhcp6",
    "quiet-ra", "ra-param", "rebind-domain-ok", "rebind-localhost-ok", "rev-server", "selfmx", "server",
    "srv-host", "stop-dns-rebind", "strict-order", "synth-domain", "tag-if", "tftp-blocksize", "tftp-lowercase", "tftp-max",
    "tftp-mtu", "tftp-no-blocksize", "tftp-no-fail", "tftp-port-range", "txt-record", "use-stale-cache",
];

/// What dnsmasq is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Services {
    /// Its configuration.
    pub(crate) config: String,
    /// Machines that are known: one in a line.
    pub(crate) hosts: String,
    /// Names of the name service: one address in a line.
    pub(crate) names: String,
    /// A folder that it gives away.
    pub(crate) tftp_root: Option<String>,
}

/// Writes lines of configuration.
struct Writer<'a> {
    network: &'a str,
    text: String,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A value that may stand in a line: neither a control character nor one of those that mean something there.
    fn value<'v>(&self, what: &str, value: &'v str, special: &str) -> Result<&'v str, Error> {
        match value.chars().find(|letter| letter.is_control() || special.contains(*letter)) {
            None => Ok(value),
            Some(letter) => Err(unsupported(format!(
                "Network '{}': {what} '{}': '{}' would mean something else to dnsmasq; leave it out",
                self.network,
                value.escape_debug(),
                letter.escape_debug()
            ))),
        }
    }

    /// A name of the name service.
    fn name<'v>(&self, what: &str, value: &'v str) -> Result<&'v str, Error> {
        self.value(what, value, " ,/#\"\\'")
    }
}

impl Services {
    /// What a network needs; nothing if it serves nobody. `resolvers` tells whether the host knows servers to ask.
    pub(crate) fn of(
        definition: &Definition,
        bridge: &str,
        folder: &Path,
        resolvers: bool,
    ) -> Result<Option<Self>, Error> {
        let gives = definition.ips.iter().any(Ip::gives_addresses);
        let dns = definition.dns.enable != Some(false);
        if !definition.forward.mode.is_own() || definition.ips.is_empty() || !gives && !dns {
            return Ok(None);
        }
        let mut writer = Writer { network: &definition.name, text: String::new() };
        let file = |name: &str| folder.join(name).display().to_string();
        writer.value("folder", &file(""), "\"")?;
        writer.line("strict-order");
        // Whose process it is, the sandbox decides.
        writer.line("user=root");
        // There is nobody to write logs to; what keeps it from starting it says to whoever started it.
        for fixed in ["log-facility=/dev/null", "no-ping", "quiet-dhcp", "quiet-dhcp6", "quiet-ra"] {
            writer.line(fixed);
        }
        writer.names(definition, dns, resolvers)?;
        writer.line(&format!("pid-file={}", file(READY)));
        writer.line("except-interface=lo");
        writer.line("bind-dynamic");
        writer.line(&format!("interface={}", writer.name("bridge", bridge)?));
        if definition.forward.mode == Mode::None {
            // No way out is told, and no name is asked for outside.
            writer.line("dhcp-option=3");
            writer.line("ra-param=*,0,0");
        }
        if dns {
            writer.records(&definition.dns)?;
        }
        let tftp_root = writer.addresses(definition)?;
        let mut hosts = String::new();
        if gives {
            writer.line(&format!("dhcp-leasefile={}", file(LEASES)));
            writer.line(&format!("dhcp-hostsdir={}", file(HOSTS)));
            for ip in definition.ips.iter().filter(|ip| ip.gives_addresses()) {
                for host in &ip.hosts {
                    hosts.push_str(&writer.host(host, ip.address.is_ipv6())?);
                    hosts.push('\n');
                }
            }
        }
        let mut names = String::new();
        if dns {
            writer.line(&format!("hostsdir={}", file(NAMES)));
            for host in &definition.dns.hosts {
                let Some(address) = host.address else { continue };
                let _ = write!(names, "{address}");
                for name in &host.names {
                    let _ = write!(names, " {}", writer.value("name of a host", name.trim(), " #")?);
                }
                names.push('\n');
            }
        }
        if let Some(mtu) = definition.mtu {
            writer.line(&format!("dhcp-option=option:mtu,{mtu}"));
        }
        writer.options(definition.options.as_deref().unwrap_or_default())?;
        Ok(Some(Self { config: writer.text, hosts, names, tftp_root }))
    }
}

impl Writer<'_> {
    fn names(&mut self, definition: &Definition, dns: bool, resolvers: bool) -> Result<(), Error> {
        if !dns {
            self.line("port=0");
        }
        let forwarders = definition.dns.forwarders.iter().filter(|_| dns);
        let mut asks_elsewhere = !resolvers || definition.forward.mode == Mode::None;
        for forwarder in forwarders {
            let mut line = "server=".to_owned();
            if let Some(domain) = &forwarder.domain {
                let _ = write!(line, "/{}/", self.name("domain of a forwarder", domain)?);
            }
            match forwarder.address {
                Some(address) => {
                    let _ = write!(line, "{address}");
                    asks_elsewhere |= forwarder.domain.is_none();
                }
                None => line.push('#'),
            }
            self.line(&line);
        }
        if asks_elsewhere {
            self.line("no-resolv");
        }
        if let Some(domain) = &definition.domain {
            let name = self.name("domain", &domain.name)?.to_owned();
            if domain.local_only == Some(true) {
                self.line(&format!("local=/{name}/"));
            }
            self.line(&format!("domain={name}"));
            self.line("expand-hosts");
        }
        for ip in definition.ips.iter().filter(|ip| dns && ip.local_ptr == Some(true)) {
            let zone = ip.prefix_bits().and_then(|prefix| reverse_zone(ip.address, prefix));
            let zone = zone.ok_or_else(|| {
                unsupported(format!(
                    "Network '{}': localPtr of {} needs a prefix at the border of a digit of its name",
                    self.network, ip.address
                ))
            })?;
            self.line(&format!("local=/{zone}/"));
        }
        if dns && definition.dns.forward_plain_names == Some(false) {
            self.line("domain-needed");
            self.line("local=//");
        }
        Ok(())
    }

    fn records(&mut self, dns: &Dns) -> Result<(), Error> {
        for text in &dns.texts {
            let name = self.name("name of a text", &text.name)?;
            let value = self.value("text", text.value.as_deref().unwrap_or_default(), "")?;
            self.line(&format!("txt-record={name},{value}"));
        }
        for service in &dns.services {
            let part = |text: &Option<String>| {
                self.name("service", text.as_deref().unwrap_or_default()).map(str::to_owned)
            };
            let mut line = format!(
                "srv-host=_{}._{}",
                part(&service.service)?.replace('/', "_"),
                part(&service.protocol)?
            );
            if service.domain.is_some() {
                let _ = write!(line, ".{}", part(&service.domain)?);
            }
            // A dot says that the service is not to be had.
            if let Some(target) = service.target.as_deref().filter(|target| *target != ".") {
                let [port, priority, weight] = service.numbers;
                let _ = write!(line, ",{}", self.name("target of a service", target)?);
                if service.numbers != [0; 3] {
                    let _ = write!(line, ",{},{priority},{weight}", port.max(1));
                }
            }
            self.line(&line);
        }
        Ok(())
    }

    /// The folder that is given away, if one is.
    fn addresses(&mut self, definition: &Definition) -> Result<Option<String>, Error> {
        let mut root = None;
        let mut most = 0_u32;
        for ip in &definition.ips {
            let Some(prefix) = ip.prefix_bits() else {
                return Err(unsupported(format!(
                    "Network '{}': {} has no prefix that makes sense; give it one",
                    self.network, ip.address
                )));
            };
            let six = ip.address.is_ipv6();
            for range in &ip.ranges {
                let size = if six { prefix.to_string() } else { mask_of(prefix).to_string() };
                let lease = range.lease.map(|lease| format!(",{}", lease_time(lease))).unwrap_or_default();
                self.line(&format!("dhcp-range={},{},{size}{lease}", range.start, range.end));
            }
            most = most.saturating_add(ip.addresses());
            if ip.ranges.is_empty() && !ip.hosts.is_empty() {
                let size = if six { format!(",{prefix}") } else { String::new() };
                self.line(&format!("dhcp-range={},static{size}", ip.address));
            }
            if !six && ip.gives_addresses() {
                self.line("dhcp-no-override");
                self.line("dhcp-authoritative");
            }
            if let Some(folder) = &ip.tftp_root {
                let folder = self.value("folder of <tftp>", folder, ",\"")?.to_owned();
                self.line("enable-tftp");
                self.line(&format!("tftp-root={folder}"));
                root = Some(folder);
            }
            if let Some(boot) = ip.boot.as_ref().filter(|_| ip.gives_addresses()) {
                let file = self.value("file of <bootp>", &boot.file, ",\"")?;
                let server = boot.server.map(|server| format!(",,{server}")).unwrap_or_default();
                self.line(&format!("dhcp-boot={file}{server}"));
            }
        }
        if most > 0 {
            self.line(&format!("dhcp-lease-max={most}"));
        }
        let mut six = definition.ips.iter().filter(|ip| ip.address.is_ipv6());
        if six.clone().any(Ip::gives_addresses) {
            self.line("enable-ra");
        } else {
            six.try_for_each(|ip| {
                self.line(&format!("dhcp-range={},ra-only", ip.address));
                Ok::<_, Error>(())
            })?;
        }
        Ok(root)
    }

    fn host(&self, host: &Host, six: bool) -> Result<String, Error> {
        let name = host.name.as_deref().map(|name| self.name("name of a host", name)).transpose()?;
        if let Some(name) = name.filter(|name| name.contains([':', '=', '[', ']', '*'])) {
            return Err(unsupported(format!("Network '{}': '{name}' is no name of a host", self.network)));
        }
        let Some(address) = host.address else { return Ok(String::new()) };
        let shown = if six { format!("[{address}]") } else { address.to_string() };
        let mut words = Vec::new();
        if six {
            words.extend(host.id.as_ref().filter(|id| !id.is_empty()).map(|id| format!("id:{id}")));
            words.extend(name.map(str::to_owned));
            words.push(shown);
        } else {
            words.extend(host.mac.clone());
            if words.is_empty() {
                words.extend(name.map(str::to_owned));
                words.push(shown);
            } else {
                words.push(shown);
                words.extend(name.map(str::to_owned));
            }
        }
        words.extend(host.lease.map(lease_time));
        Ok(words.join(","))
    }

    /// Lines of the definition's own, as far as they are harmless.
    fn options(&mut self, options: &[String]) -> Result<(), Error> {
        for option in options {
            let option = self.value("option for dnsmasq", option, "")?.trim().to_owned();
            let key = option.split('=').next().unwrap_or_default().trim();
            if option.is_empty() || option.starts_with('#') {
                continue;
            }
            if !OPTIONS.contains(&key) {
                return Err(unsupported(format!(
                    "Network '{}': option '{key}' of dnsmasq is not for definitions: it could start programs, read files or \
                     listen elsewhere; leave it out",
                    self.network
                )));
            }
            self.line(&option);
        }
        Ok(())
    }
}

fn lease_time(lease: LeaseTime) -> String {
    lease.seconds().map_or_else(|| "infinite".to_owned(), |seconds| format!("{seconds}s"))
}

/// The zone that the names of a network's addresses are in.
fn reverse_zone(address: IpAddr, prefix: u8) -> Option<String> {
    let (digits, bits, end): (Vec<String>, u8, &str) = match network_of(address, prefix) {
        IpAddr::V4(address) => {
            (address.octets().iter().map(ToString::to_string).collect(), 8, "in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
            (nibbles.map(|nibble| format!("{nibble:x}")).collect(), 4, "ip6.arpa")
        }
    };
    if prefix == 0 || !prefix.is_multiple_of(bits) {
        return None;
    }
    let mut kept = digits.into_iter().take(usize::from(prefix / bits)).collect::<Vec<_>>();
    kept.reverse();
    kept.push(end.to_owned());
    Some(kept.join("."))
}

/// Reads what dnsmasq keeps of its leases; names come from guests, and are names or nothing. What has expired is left out.
pub(crate) fn leases(text: &str, definition: &Definition, now: i64) -> Vec<Lease> {
    let interface = definition.bridge.name.clone().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with("duid "));
    let read = lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let expiry: i64 = words.next()?.parse().ok()?;
        let (whose, address) = (words.next()?, words.next()?.parse::<IpAddr>().ok()?);
        if expiry > 0 && expiry < now {
            return None;
        }
        let given = |word: Option<&str>| word.filter(|word| *word != "*").map(str::to_owned);
        let host_name = given(words.next()).filter(|name| is_host_name(name));
        let client_id = given(words.next())
            .filter(|id| id.len() <= 1024 && id.chars().all(|c| c.is_ascii_hexdigit() || c == ':'));
        let six = address.is_ipv6();
        let mut ips = definition.ips.iter().filter(|ip| ip.address.is_ipv6() == six);
        let prefix = ips.next().and_then(Ip::prefix_bits).unwrap_or_default();
        let (mac, iaid) = if six {
            (client_id.as_deref().and_then(mac_of_duid), Some(whose.trim_start_matches('T').to_owned()))
        } else {
            // Other hardware than Ethernet has its number in front.
            (Mac::read(whose.rsplit('-').next()?).map(|mac| mac.to_string()), None)
        };
        let iaid = iaid.filter(|iaid| iaid.chars().all(|digit| digit.is_ascii_digit()));
        Some(Lease {
            interface: interface.clone(),
            expiry,
            kind: i32::from(six),
            mac,
            iaid,
            address: address.to_string(),
            prefix: u32::from(prefix),
            host_name,
            client_id,
        })
    });
    read.take(LEASES_MAX).collect()
}

fn is_host_name(name: &str) -> bool {
    name.len() <= NAME_BYTES
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_'))
}

/// The address in a DHCP unique identifier that is made of one.
fn mac_of_duid(duid: &str) -> Option<String> {
    let bytes: Vec<&str> = duid.split(':').collect();
    let mac = match bytes.as_slice() {
        ["00", "01", "00", "01", _, _, _, _, mac @ ..] | ["00", "03", "00", "01", mac @ ..] => mac,
        _ => return None,
    };
    Mac::read(&mac.join(":")).map(|mac| mac.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_wire::types::Uuid;

    fn services(inside: &str) -> Result<Services, Error> {
        let xml = format!(
            "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name>{inside}</network>"
        );
        let definition = Definition::read(&xml, false, Uuid::default).unwrap();
        Services::of(&definition, "virbr7", Path::new("/run/x"), true).map(Option::unwrap)
    }

    const DHCP: &str = "<ip address='10.1.2.1' prefix='24'><dhcp><range start='10.1.2.2' end='10.1.2.9'>\
        <lease expiry='2' unit='hours'/></range><host mac='52:54:00:00:00:01' name='web' ip='10.1.2.20'/>\
        <host name='db' ip='10.1.2.21'><lease expiry='0'/></host></dhcp></ip>";

    #[test]
    fn a_network_is_served_as_it_is_defined() {
        let xml = format!(
            "<forward/><domain name='lab' localOnly='yes'/><dns forwardPlainNames='no'><forwarder addr='8.8.8.8'/>\
             <forwarder domain='x' addr='8.8.4.4'/><forwarder domain='y'/><txt name='a' value='b, c'/>\
             <srv service='s' protocol='tcp' target='t' port='7'/><host ip='10.1.2.30'><hostname>a</hostname><hostname>b</hostname></host>\
             </dns><mtu size='1400'/>{DHCP}<ip family='ipv6' address='fd00::1' prefix='64'/>"
        );
        let served = services(&xml).unwrap();
        for line in [
            "server=8.8.8.8",
            "server=/x/8.8.4.4",
            "server=/y/#",
            "no-resolv",
            "local=/lab/",
            "domain=lab",
            "expand-hosts",
            "domain-needed",
            "local=//",
            "interface=virbr7",
            "txt-record=a,b, c",
            "srv-host=_s._tcp,t,7,0,0",
            "dhcp-range=10.1.2.2,10.1.2.9,255.255.255.0,7200s",
            "dhcp-lease-max=8",
            "dhcp-authoritative",
            "dhcp-option=option:mtu,1400",
            "dhcp-range=fd00::1,ra-only",
            "dhcp-leasefile=/run/x/leases",
        ] {
            assert!(served.config.lines().any(|known| known == line), "{line}\n{}", served.config);
        }
        assert_eq!(served.hosts, "52:54:00:00:00:01,10.1.2.20,web\ndb,10.1.2.21,infinite\n");
        assert_eq!(served.names, "10.1.2.30 a b\n");
    }

    #[test]
    fn an_isolated_network_tells_of_no_way_out() {
        let served = services(DHCP).unwrap();
        assert!(served.config.contains("\ndhcp-option=3\n") && served.config.contains("\nno-resolv\n"));
    }

    #[test]
    fn what_would_be_another_option_is_refused() {
        for (inside, what) in [
            ("<domain name='a/b'/>", "domain"),
            ("<domain name='a,b'/>", "domain"),
            ("<dns><forwarder domain='a/1.2.3.4' addr='1.2.3.4'/></dns>", "forwarder"),
            ("<dns><host ip='1.2.3.4'><hostname>a b</hostname></host></dns>", "host"),
            ("<dns><srv service='s' protocol='tcp' target='a,b'/></dns>", "target"),
            ("<dnsmasq:options><dnsmasq:option value='dhcp-script=/x'/></dnsmasq:options>", "dhcp-script"),
            (
                "<dnsmasq:options><dnsmasq:option value=' conf-file = /etc/shadow'/></dnsmasq:options>",
                "conf-file",
            ),
            ("<dnsmasq:options><dnsmasq:option value='user=root'/></dnsmasq:options>", "user"),
            (
                "<dnsmasq:options><dnsmasq:option value='listen-address=1.2.3.4'/></dnsmasq:options>",
                "listen-address",
            ),
        ] {
            let error = services(&format!("{inside}{DHCP}")).unwrap_err();
            assert!(
                error.message.contains(what) && error.message.contains("leave it out"),
                "{inside}: {error}"
            );
        }
        let host = "<ip address='10.1.2.1' prefix='24'><dhcp><host mac='52:54:00:00:00:01' name='a,set:b' ip='10.1.2.3'/></dhcp></ip>";
        services(host).unwrap_err();
        services(&format!("<dnsmasq:options><dnsmasq:option value='cname=a,b'/></dnsmasq:options>{DHCP}"))
            .unwrap();
    }

    #[test]
    fn zones_of_addresses_end_at_a_digit() {
        let zone = |address: &str, prefix| reverse_zone(address.parse().unwrap(), prefix);
        assert_eq!(zone("192.168.5.1", 24).as_deref(), Some("5.168.192.in-addr.arpa"));
        assert_eq!(zone("192.168.5.1", 23), None);
        assert_eq!(zone("fd00:1::1", 32).as_deref(), Some("1.0.0.0.0.0.d.f.ip6.arpa"));
    }

    #[test]
    fn leases_are_read_and_what_guests_call_themselves_is_a_name_or_nothing() {
        let definition = Definition::read(
            &format!("<network><name>n</name><bridge name='br'/>{DHCP}<ip family='ipv6' address='fd00::1' prefix='64'/></network>"),
            false,
            Uuid::default,
        )
        .unwrap();
        let text = "2000 52:54:00:00:00:01 10.1.2.20 web 01:52:54:00:00:00:01\n0 52:54:00:00:00:02 10.1.2.3 * *\n\
            5 52:54:00:00:00:03 10.1.2.4 * *\n2000 52:54:00:00:00:04 10.1.2.5 <b>x</b> zz\nnonsense\n2000 x y z\n\
            duid 00:01\n2000 1193046 fd00::9 six 00:01:00:01:2a:00:00:00:52:54:00:00:00:05\n";
        let leases = leases(text, &definition, 1000);
        let shown: Vec<_> =
            leases.iter().map(|lease| (lease.address.as_str(), lease.host_name.as_deref())).collect();
        assert_eq!(
            shown,
            [("10.1.2.20", Some("web")), ("10.1.2.3", None), ("10.1.2.5", None), ("fd00::9", Some("six"))]
        );
        assert_eq!(leases[0].client_id.as_deref(), Some("01:52:54:00:00:00:01"));
        assert_eq!((leases[0].prefix, leases[3].prefix), (24, 64));
        assert_eq!(leases[3].mac.as_deref(), Some("52:54:00:00:00:05"));
        assert_eq!(leases[3].iaid.as_deref(), Some("1193046"));
    }
}
