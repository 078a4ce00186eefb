# What a monitoring and provisioning script in Perl does; it dies on the first thing that is not as libvirt has it.
use strict;
use warnings;
use Sys::Virt;
use Sys::Virt::Domain;
use Sys::Virt::Event;
use Sys::Virt::Stream;

Sys::Virt::Event::register_default();
my $connection = Sys::Virt->new(uri => $ENV{LIBVIRT_DEFAULT_URI});
sub expect { my ($what, $seen, $wanted) = @_; die "$what: '$seen', not '$wanted'" unless $seen eq $wanted }

expect("type", $connection->get_type, "QEMU");
expect("alive", $connection->is_alive, 1);
die "no memory" unless $connection->get_node_info->{memory} > 0;
die "no capabilities" unless $connection->get_capabilities =~ /<capabilities>/;

my @events;
my $callback = $connection->domain_event_register_any(undef, Sys::Virt::Domain::EVENT_ID_LIFECYCLE,
    sub { my ($conn, $domain, $event, $detail) = @_; push @events, $domain->get_name . " $event $detail" });

local $/;
open my $file, "<", $ARGV[0] or die $!;
my $domain = $connection->define_domain(<$file>);
expect("defined domains", join(",", $connection->list_defined_domain_names(10)), "perl");
$domain->create;
expect("state", join(",", $domain->get_state), Sys::Virt::Domain::STATE_RUNNING . ",1");
expect("names", join(",", map { $_->get_name } $connection->list_all_domains), "perl");
expect("by uuid", $connection->get_domain_by_uuid($domain->get_uuid)->get_id, $domain->get_id);
my $info = $domain->get_info;
expect("memory", "$info->{memory}/$info->{maxMem}/$info->{nrVirtCpu}", "16384/16384/1");
my ($stats) = grep { $_->{dom}->get_name eq "perl" } $connection->get_all_domain_stats(0, undef, 0);
expect("disks", $stats->{data}{"block.count"}, 1);
expect("disk", $stats->{data}{"block.0.name"}, "hda");
my $until = time + 30;
sleep 1 while $domain->block_stats("hda")->{rd_req} == 0 && time < $until;
die "the guest has read nothing" unless $domain->block_stats("hda")->{rd_bytes} > 0;
expect("size", $domain->get_block_info("hda")->{capacity}, -s $ARGV[1]);
$domain->set_metadata(Sys::Virt::Domain::METADATA_TITLE, "a title", undef, undef, 0);
expect("title", $domain->get_metadata(Sys::Virt::Domain::METADATA_TITLE, undef, 0), "a title");

# The guest counts on its console.
my $stream = $connection->new_stream;
$domain->open_console($stream, undef);
my $text = "";
while (($text =~ tr/\n//) < 3) {
    my $read = $stream->recv(my $piece, 1024);
    die "the console ended" if $read <= 0;
    $text .= $piece;
}
$stream->finish;

$domain->suspend;
expect("paused", ($domain->get_state)[0], Sys::Virt::Domain::STATE_PAUSED);
$domain->resume;
$domain->destroy;
expect("id", $domain->get_id, -1);
eval { $domain->suspend };
die "suspending what is off did not fail" unless $@;
expect("code", $@->code, Sys::Virt::Error::ERR_OPERATION_INVALID);
expect("domain of the error", $@->domain, Sys::Virt::Error::FROM_DOMAIN);
$domain->undefine;
eval { $connection->get_domain_by_name("perl") };
expect("code", $@->code, Sys::Virt::Error::ERR_NO_DOMAIN);

$until = time + 30;
Sys::Virt::Event::add_timeout(200, sub { });
Sys::Virt::Event::run_default while @events < 7 && time < $until;
expect("events", join(",", @events),
    "perl 0 0,perl 4 0,perl 2 0,perl 3 0,perl 4 0,perl 5 1,perl 1 0");
$connection->domain_event_deregister_any($callback);
print "content\n";
