#!/usr/bin/env bash
# Starts and stops a SLURM cluster of two nodes on this machine, for tests: `cluster.sh up`, `cluster.sh down`.
# Needs Debian packages and root, but not systemd. `down` stops only processes that `up` started. If a cluster already
# exists, it is used and left running. A cluster that does not start is described and started once more.
set -Eeuo pipefail

STATE=${SLURM_TEST_STATE:-/tmp/wgan-sweep-slurm}
PACKAGES="munge mariadb-server slurm-client slurmctld slurmd slurmdbd"
DATABASE_PORT=13307
export PATH=$PATH:/usr/sbin:/sbin

say() { echo "cluster: $*"; }
skip() { say "skipped: $*"; exit 77; }  # the conventional exit code for a skipped test

until_true() {  # until_true SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { say "timed out waiting for: $*; see $STATE/log"; return 1; }
    sleep 0.3
  done
}

started() { echo "$1" >> "$STATE/started"; }  # $1: a file with the id of a process that `down` stops

install_packages() {
  local missing=()
  for package in $PACKAGES; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || skip "no apt-get to install ${missing[*]}"
  local policy=/usr/sbin/policy-rc.d own=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; own=1; }  # start no daemons
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq install --no-install-recommends -y "${missing[@]}"; } > "$STATE/log/apt" 2>&1 \
    || skip "cannot install ${missing[*]} (see $STATE/log/apt)"
  [ -z "$own" ] || rm -f $policy
}

configure() {
  local host; host=$(hostname -s)
  for name in "$host" n1 n2; do
    getent hosts "$name" >/dev/null || echo "127.0.0.1 $name" >> /etc/hosts
  done
  mkdir -p /etc/slurm "$STATE"/{spool/n1,spool/n2,controller}
  cat > /etc/slurm/slurm.conf <<CONF
ClusterName=wgansweep
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=10
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=5
OverTimeLimit=0
ReturnToService=2
SlurmdTimeout=30
SlurmctldTimeout=30
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
JobAcctGatherType=jobacct_gather/linux
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmdParameters=config_overrides
StateSaveLocation=$STATE/controller
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmctldLogFile=$STATE/log/slurmctld
SlurmdPidFile=$STATE/slurmd-%n.pid
SlurmdLogFile=$STATE/log/slurmd-%n
SlurmdSpoolDir=$STATE/spool/%n
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17101 CPUs=4 RealMemory=4000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17102 CPUs=4 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' > /etc/slurm/cgroup.conf  # loads anywhere; not used
  cat > /etc/slurm/slurmdbd.conf <<CONF
AuthType=auth/munge
DbdHost=$host
DbdAddr=127.0.0.1
SlurmUser=root
PidFile=$STATE/slurmdbd.pid
LogFile=$STATE/log/slurmdbd
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DATABASE_PORT
StorageUser=slurm
StoragePass=slurm
CONF
  chmod 600 /etc/slurm/slurmdbd.conf
}

start_munge() {
  if munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then return; fi
  [ -s /etc/munge/munge.key ] || mungekey -c -k /etc/munge/munge.key
  chown munge:munge /etc/munge/munge.key
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
  setpriv --reuid=munge --regid=munge --init-groups munged < /dev/null
  until_true 10 sh -c 'munge -n | unmunge'
  started /run/munge/munged.pid
}

start_database() {
  local folder=$STATE/database socket=$STATE/database/socket
  install -d -o mysql -g mysql "$folder"
  [ -d "$folder/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$folder" \
    --auth-root-authentication-method=socket --skip-test-db > "$STATE/log/mariadb-install" 2>&1
  setsid mariadbd --no-defaults --user=mysql --datadir="$folder" --socket="$socket" --bind-address=127.0.0.1 \
    --port=$DATABASE_PORT --skip-name-resolve --innodb-flush-log-at-trx-commit=0 < /dev/null > "$STATE/log/mariadb" 2>&1 &
  echo $! > "$STATE/mariadb.pid"
  started "$STATE/mariadb.pid"
  until_true 60 mariadb-admin --no-defaults --socket="$socket" ping
  mariadb --no-defaults --socket="$socket" -e "CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
    CREATE DATABASE IF NOT EXISTS slurm_acct_db; GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
}

up_once() {
  [ "$(id -u)" = 0 ] || skip "root is needed"
  if timeout 5 squeue > /dev/null 2>&1; then say "using the existing cluster"; return; fi
  mkdir -p "$STATE/log"
  install_packages
  configure
  start_munge
  start_database
  for daemon in slurmdbd slurmctld slurmd-n1 slurmd-n2; do started "$STATE/$daemon.pid"; done
  slurmdbd
  until_true 60 test -s "$STATE/slurmdbd.pid"
  until_true 60 sacctmgr -n list cluster
  sacctmgr -n list cluster format=cluster%20 | grep -qw wgansweep || sacctmgr -i add cluster wgansweep > /dev/null
  slurmctld
  until_true 30 scontrol ping
  for node in n1 n2; do
    unshare --uts sh -c "hostname $node && exec slurmd -N $node" 2>/dev/null || slurmd -N $node  # own host name
  done
  for daemon in slurmdbd slurmctld slurmd-n1 slurmd-n2; do
    until_true 30 test -s "$STATE/$daemon.pid"
  done
  until_true 60 sh -c 'test "$(sinfo -h -N -p main -t idle -o %N | wc -l)" = 2'
  timeout 60 srun -Q -N 2 -n 2 -t 1 true  # the scheduler delays jobs for a while after it starts
  until_true 60 sh -c 'sacct -n -X -S now-10minutes -o state | grep -q COMPLETED'
  say "$(sinfo -V), two nodes, up after $SECONDS s"
}

down() {
  [ -e "$STATE/started" ] || return 0
  scancel --me 2>/dev/null || true
  local processes; processes=$(tac "$STATE/started" | xargs cat 2>/dev/null)
  for process in $processes; do kill "$process" 2>/dev/null || true; done
  sleep 2
  for process in $processes; do kill -9 "$process" 2>/dev/null || true; done
  rm -rf "$STATE"
  say "down"
}

describe() {  # what is known of a cluster that did not start
  for command in "sinfo -N -l" "sinfo -R" "scontrol ping" "scontrol show nodes"; do
    say "$command"; timeout 10 $command 2>&1 || true
  done
  for daemon in slurmdbd slurmctld slurmd-n1 slurmd-n2 mariadb; do
    say "the end of $STATE/log/$daemon"; tail -n 30 "$STATE/log/$daemon" 2>&1 || true
  done
}

up() {  # with one more try after a failure
  local status=0
  "$0" up-once || status=$?
  case $status in 0|77) return $status ;; esac
  describe; down
  "$0" up-once
}

case ${1:-} in
  up) up ;;
  up-once) up_once ;;
  down) down ;;
  *) echo "usage: $0 up|down" >&2; exit 2 ;;
esac
