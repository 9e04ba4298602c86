# The lab as a library: what `./lab` does on the command line, the host tests, the story and the soak do by import.
#
#   tools     running programs and saying what went wrong
#   packages  what this machine needs from Debian
#   image     the cached minimal Debian that all hosts share
#   build     treaty, compiled and installed into a layer over that image
#   net       one bridge in a namespace of its own; cables and cuts
#   host      one systemd host: boots, crashes, pauses
#   fleet     the hosts of one lab, and the clean-up
#   cluster   treaty on these hosts: token, join, members
#   simulation  the whole cluster in one process, seed by seed
#   clients   what writes and reads on hosts while they suffer
#   nemesis   what they suffer; rot: one flipped byte
#   proof     the judge of what clients were told
#   soak      rounds of these three
#   failover  how long nobody can write when a leader goes
#   bench     what is measured, and how: the load, agents seen from outside, the machine
#   rivals    etcd and ZooKeeper on this machine
#   compare   treaty beside them; scaling: more of everything
