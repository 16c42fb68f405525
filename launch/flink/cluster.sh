#!/usr/bin/env bash
# Starts and ends a standalone Flink, with what Beam's Python pipelines need beside it.
#
#   cluster.sh start FOLDER         a JobManager, TaskManagers and a worker pool on this machine
#   cluster.sh jobmanager FOLDER    of several machines, the one that jobs are given to
#   cluster.sh taskmanagers FOLDER  TaskManagers and a worker pool on each of the others
#   cluster.sh stop FOLDER          ends what was started with FOLDER on this machine
#
# What runs already is left alone, so the same command starts what has ended since.
#
# FOLDER holds configuration, logs, temporary files and process ids of this machine. Variables:
#
#   FLINK_HOME       an unpacked Flink, or the folder `pyflink` of the PyPI package
#                    apache-flink-libraries; the folder lib/ in it is all that is used
#   FLINK_HOST       the address of this machine that servers are bound to    127.0.0.1
#   FLINK_MASTER     the JobManager's address                                 $FLINK_HOST
#   FLINK_REST_PORT  where jobs are given to the JobManager                   8081
#   FLINK_RPC_PORT   where TaskManagers report to it                          6123
#   POOL_PORT        of the worker pool, the same on every machine            50001
#   TASKMANAGERS     how many on this machine                                 2
#   SLOTS            of each TaskManager; a slot works on one shard at a time 1
#   HEAP             of each TaskManager for its tasks                        1g
#   PYTHON           one that has humpback-jax                                python3
#   FLINK_SETTINGS   a file whose lines are added to Flink's config.yaml
#
# Flink and the worker pool run what anybody who reaches their ports gives them: bind them to
# loopback or to a network of your own, never to one that is open.
set -euo pipefail

fail() {
  echo "cluster.sh: $1" >&2
  exit "${2:-1}"
}

ACTION=${1:-}
[[ $# -eq 2 ]] || fail "give an action and a folder: cluster.sh start FOLDER" 2
mkdir -p "$2/logs" "$2/tmp" "$2/pids"
FOLDER=$(cd "$2" && pwd)
HOST=${FLINK_HOST:-127.0.0.1}
PYTHON=${PYTHON:-python3}
POOL_PORT=${POOL_PORT:-50001}
HEAP=${HEAP:-1g}
[[ $HEAP =~ ^([1-9][0-9]*)(m|g)$ ]] || fail "HEAP is '$HEAP': write it as 512m or 2g" 2
XMX=${BASH_REMATCH[1]} # MiB: the tasks' and 128 of Flink's own
if [[ ${BASH_REMATCH[2]} == g ]]; then XMX=$((XMX * 1024)); fi
XMX=$((XMX + 128))
# What Flink's own scripts open to it on Java 17.
OPENS=()
for package in lang net io nio text time util util.concurrent util.concurrent.atomic \
  util.concurrent.locks lang.reflect; do
  OPENS+=("--add-opens=java.base/java.$package=ALL-UNNAMED")
done
OPENS+=("--add-exports=java.base/sun.net.util=ALL-UNNAMED"
  "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED")

configure() {
  local home=${FLINK_HOME:-}
  [[ -n $home ]] || fail "FLINK_HOME is not set: give the folder of an unpacked Flink" 2
  compgen -G "$home/lib/flink-dist*.jar" >/dev/null ||
    fail "there is no lib/flink-dist*.jar in $home: give FLINK_HOME the folder of an unpacked Flink"
  command -v java >/dev/null || fail "there is no java on this machine: install Java 17"
  cat >"$FOLDER/config.yaml" <<EOF
jobmanager.rpc.address: ${FLINK_MASTER:-$HOST}
jobmanager.rpc.port: ${FLINK_RPC_PORT:-6123}
jobmanager.bind-host: $HOST
rest.address: ${FLINK_MASTER:-$HOST}
rest.bind-address: $HOST
rest.port: ${FLINK_REST_PORT:-8081}
taskmanager.host: $HOST
taskmanager.bind-host: $HOST
taskmanager.numberOfTaskSlots: ${SLOTS:-1}
taskmanager.cpu.cores: ${SLOTS:-1}
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.jvm-metaspace.size: 512m
taskmanager.memory.jvm-overhead.min: 256m
taskmanager.memory.jvm-overhead.max: 256m
taskmanager.memory.task.heap.size: $HEAP
taskmanager.memory.task.off-heap.size: 128m
taskmanager.memory.managed.size: 256m
taskmanager.memory.network.min: 128m
taskmanager.memory.network.max: 128m
io.tmp.dirs: $FOLDER/tmp
EOF
  if [[ -n ${FLINK_SETTINGS:-} ]]; then cat "$FLINK_SETTINGS" >>"$FOLDER/config.yaml"; fi
  cat >"$FOLDER/log4j.properties" <<EOF
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
EOF
}

lives() { # process id: whether it is still that of one started here
  local line
  line=$(ps -ww -o stat=,args= -p "$1") || return 1
  [[ $line != Z* && ($line == *"$FOLDER"* || $line == *beam_pipelines.worker_pool*) ]]
}

launch() { # name, command...: in the background, its output and process id under the name
  local name=$1
  shift
  if [[ -f $FOLDER/pids/$name ]] && lives "$(cat "$FOLDER/pids/$name")"; then return; fi
  nohup "$@" >"$FOLDER/logs/$name" 2>&1 </dev/null &
  echo $! >"$FOLDER/pids/$name"
}

flink() { # name, main class, further flags of java...
  local name=$1 main=$2
  shift 2
  launch "$name" java "$@" "${OPENS[@]}" "-Dlog4j.configurationFile=$FOLDER/log4j.properties" \
    -cp "$FLINK_HOME/lib/*" "org.apache.flink.runtime.$main" --configDir "$FOLDER"
}

jobmanager() {
  flink jobmanager entrypoint.StandaloneSessionClusterEntrypoint -Xmx1g
}

taskmanagers() {
  local number
  for ((number = 1; number <= ${TASKMANAGERS:-2}; number++)); do
    # Direct memory: the tasks', the network's, and Flink's own 128 MiB.
    flink "taskmanager-$number" taskexecutor.TaskManagerRunner "-Xmx${XMX}m" \
      -XX:MaxDirectMemorySize=384m -XX:MaxMetaspaceSize=512m
  done
  launch pool "$PYTHON" -m beam_pipelines.worker_pool "--host=127.0.0.1" "--port=$POOL_PORT"
}

stop() {
  local file pid tries
  for file in "$FOLDER"/pids/*; do
    [[ -f $file ]] || continue
    pid=$(cat "$file")
    if lives "$pid"; then kill "$pid"; fi
    for ((tries = 0; tries < 100; tries++)); do
      lives "$pid" || break
      sleep 0.1
    done
    if lives "$pid"; then kill -KILL "$pid"; fi
    rm "$file"
  done
}

case $ACTION in
  start)
    configure
    jobmanager
    taskmanagers
    ;;
  jobmanager)
    configure
    jobmanager
    ;;
  taskmanagers)
    configure
    taskmanagers
    ;;
  stop) stop ;;
  *) fail "'$ACTION' is no action: start, jobmanager, taskmanagers or stop" 2 ;;
esac
