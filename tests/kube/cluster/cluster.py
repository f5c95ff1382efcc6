#!/usr/bin/env python3
"""A small real Kubernetes cluster on one machine, without Docker, as a test fixture.

  build               compile the `kube` binary from main.go (the first time: minutes)
  up [--nodes N]      start the control plane and N nodes (0: the API alone)
  down                stop everything, leave no trace
  kubectl ARGS...     run kubectl against the cluster
  node NAME CMD...    run a command inside a node, or inside "cp", the control plane
  image NAME PATH     make an OCI image of a directory or a static binary, load it on every node

Each node, and the control plane, is a "box": network, mount, PID, UTS, IPC and cgroup namespaces
under one supervising PID 1; killing that takes its processes, mounts and interfaces with it. A box
sees the machine's files, but has an empty /run, and what it writes to /etc, /opt and /var lands in
an overlay under the state directory, so hostPath volumes differ per node. Needs root, Go and, from
Debian: etcd-server containerd runc containernetworking-plugins busybox-static iptables nftables
conntrack iproute2 socat openssl.
"""
import argparse, ctypes, glob, hashlib, io, json, os, shlex, shutil, signal, socket, subprocess, sys, tarfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")) + "/ambit-kube"
NET, PODS, SERVICES, DOMAIN = "10.77.0", "10.244", "10.96.0", "cluster.local"
CP, CGROUPS, API = f"{NET}.1", "/sys/fs/cgroup", "https://127.0.0.1:6443"
PAUSE, BUSYBOX = "ambitkube/pause:1", "ambitkube/busybox:1"
IMPORT = ("ctr", "-n", "k8s.io", "images", "import")
V2 = os.path.exists(f"{CGROUPS}/cgroup.controllers")  # written for, but not yet tried on, such a machine
NEW_ALL = 0x6E020000  # mount, cgroup, UTS, IPC, PID and network namespaces
MS_BIND, MS_PRIVATE, MS_SHARED = 0x1000, 0x44000, 0x104000  # the latter two recursive
libc = ctypes.CDLL(None, use_errno=True)

def syscall(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def mount(source, target, kind="none", flags=0, data=""):
    os.path.exists(target) or os.makedirs(target)
    syscall(libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()))

def sh(*command, **options):
    return subprocess.run([str(c) for c in command], **{"check": True, "text": True, **options})

def quiet(*command):
    return sh(*command, capture_output=True).stdout

def ip(*lines, inside=()):
    sh(*inside, "ip", "-batch", "-", input="\n".join(lines))

def read(path):
    with open(path) as f:
        return f.read()

def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path

def wait_for(what, condition, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        try:
            if result := condition():
                return result
        except (OSError, ValueError, subprocess.CalledProcessError):
            pass
        time.sleep(0.3)
    raise SystemExit(f"gave up waiting for {what} after {seconds} s")

def make_pki(d, nodes):
    config = write(f"{d}/req.cnf", "[req]\ndistinguished_name=dn\n[dn]\n")

    def cert(name, subject, *extensions, ca="ca"):
        sign = ["-CA", f"{d}/{ca}.crt", "-CAkey", f"{d}/{ca}.key"] if ca else []
        basic = "basicConstraints=critical,CA:" + ("FALSE" if ca else "TRUE")
        quiet("openssl", "req", "-config", config, "-x509", "-days", "3650", "-nodes", "-newkey", "ec", "-pkeyopt",
              "ec_paramgen_curve:P-256", "-subj", subject, "-keyout", f"{d}/{name}.key", "-out", f"{d}/{name}.crt",
              *sign, *[x for e in (basic, *extensions) for x in ("-addext", e)])

    cert("ca", "/CN=ambitkube", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature", ca=None)
    names = ["localhost"] + ["kubernetes" + s for s in ("", ".default", ".default.svc", f".default.svc.{DOMAIN}")]
    cert("apiserver", "/CN=kube-apiserver", "extendedKeyUsage=serverAuth", "subjectAltName=" + ",".join(
        [f"DNS:{n}" for n in names] + [f"IP:{i}" for i in ("127.0.0.1", CP, f"{SERVICES}.1")]))
    users = {"admin": "/O=system:masters/CN=admin", "kubelet-client": "/O=system:masters/CN=kube-apiserver",
             **{f"kube-{k}": f"/CN=system:kube-{k}" for k in ("controller-manager", "scheduler", "proxy")},
             **{n: f"/O=system:nodes/CN=system:node:{n}" for n in nodes}, "front": "/CN=front-proxy"}
    for name, subject in users.items():
        cert(name, subject, "extendedKeyUsage=clientAuth")
    quiet("openssl", "genrsa", "-out", f"{d}/sa.key", "2048")
    quiet("openssl", "rsa", "-in", f"{d}/sa.key", "-pubout", "-out", f"{d}/sa.pub")

def kubeconfig(path, pki, user, server):
    return write(path, {
        "apiVersion": "v1", "kind": "Config", "current-context": "ambitkube",
        "clusters": [{"name": "ambitkube", "cluster": {"server": server, "certificate-authority": f"{pki}/ca.crt"}}],
        "users": [{"name": user, "user": {"client-certificate": f"{pki}/{user}.crt", "client-key": f"{pki}/{user}.key"}}],
        "contexts": [{"name": "ambitkube", "context": {"cluster": "ambitkube", "user": user}}]})

def oci_image(out, name, path, entrypoint, env=()):
    """Write a one-layer OCI image archive of a directory, or of one file."""
    blobs = {}

    def blob(data, kind):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = hashlib.sha256(data).hexdigest()
        blobs["blobs/sha256/" + digest] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": "sha256:" + digest, "size": len(data)}

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.add(os.path.realpath(path), "" if os.path.isdir(path) else os.path.basename(path))
    layer = blob(raw.getvalue(), "layer.v1.tar")
    config = blob({"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
                   "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
                   "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin:/sbin:/usr/bin", *env]}}, "config.v1+json")
    manifest = blob({"schemaVersion": 2, "config": config, "layers": [layer],
                     "mediaType": "application/vnd.oci.image.manifest.v1+json"}, "manifest.v1+json")
    full = name if "." in name.split("/")[0] else "docker.io/" + ("" if "/" in name else "library/") + name
    index = {"schemaVersion": 2, "manifests": [{**manifest, "annotations": {"io.containerd.image.name": full}}]}
    write(out, "")
    with tarfile.open(out, "w") as tar:
        for path, data in {**blobs, "index.json": json.dumps(index).encode(),
                           "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}.items():
            (info := tarfile.TarInfo(path)).size = len(data)
            tar.addfile(info, io.BytesIO(data))

def base_images(state):
    root, busybox = f"{state}/images/root", shutil.which("busybox")
    for d in ("bin", "etc", "proc", "sys", "dev", "run", "var", "root", "tmp"):
        os.makedirs(f"{root}/{d}")
    os.chmod(f"{root}/tmp", 0o1777)
    write(f"{root}/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    shutil.copy(busybox, f"{root}/bin/busybox")
    for applet in set(quiet(busybox, "--list").split()) - {"busybox"}:
        os.symlink("busybox", f"{root}/bin/{applet}")
    oci_image(f"{state}/images/pause.tar", PAUSE, root, ["/bin/sleep", "2147483647"])
    oci_image(f"{state}/images/busybox.tar", BUSYBOX, root, ["/bin/sh"])
    shutil.rmtree(root)

# --- inside a box

class Box:
    """PID 1 of a box: builds the box's view of the machine, starts its parts, reaps."""

    def __init__(self, args):
        self.args, self.state, self.name, self.index = args, args.state, args.box, int(args.box[2:] or 0)
        self.dir, self.pki, self.parts = f"{args.state}/{args.box}", f"{args.state}/pki", {}
        if os.fork():  # the child is the first process of the new PID namespace
            os._exit(0)
        pid = os.readlink("/proc/self")  # its number outside, while this is still the machine's /proc
        write(f"{self.dir}/pid", f"{pid} {born(pid)}")
        self.filesystem()
        socket.sethostname(self.name)
        ip("link set lo up")
        self.node() if self.index else self.control_plane()
        while True:
            pid, status = os.wait()
            if pid in self.parts:
                print(f"{self.parts.pop(pid)} ended, wait status {status:#x}", flush=True)

    def filesystem(self):
        hierarchies = [g.split("/")[-2] for g in groups(self.state)]
        mount("none", "/", flags=MS_PRIVATE)
        for kind, d in (("proc", "/proc"), ("sysfs", "/sys")):  # those of the new namespaces
            libc.umount2(d.encode(), 2)  # MNT_DETACH
            mount(kind, d, kind)
        mount("bpf", "/sys/fs/bpf", "bpf")
        if V2:
            mount("cgroup2", CGROUPS, "cgroup2")
            write(f"{CGROUPS}/box/cgroup.procs", "1")  # a group with children may hold no process
        else:
            mount("tmpfs", CGROUPS, "tmpfs", data="mode=755")
            for h in hierarchies:
                kind = "cgroup2" if h == "unified" else "cgroup"
                mount(kind, f"{CGROUPS}/{h}", kind, data={"unified": "", "systemd": "none,name=systemd"}.get(h, h))
        for d in ("etc", "opt", "var"):
            os.makedirs(f"{self.dir}/{d}"), os.makedirs(f"{self.dir}/.{d}")
            mount("overlay", f"/{d}", "overlay", data=f"lowerdir=/{d},upperdir={self.dir}/{d},workdir={self.dir}/.{d}")
        for d in ("kubelet", "containerd"):  # an overlay cannot hold these
            os.makedirs(f"{self.dir}/{d}")
            mount(f"{self.dir}/{d}", f"/var/lib/{d}", flags=MS_BIND)
        mount("tmpfs", "/run", "tmpfs", data="mode=755")
        os.makedirs("/run/lock")
        # The kubelet sets some machine-wide sysctls; show it files that have its values already.
        for key, value in {"vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1,
                           "kernel/keys/root_maxkeys": 1000000, "kernel/keys/root_maxbytes": 25000000}.items():
            mount(write(f"{self.dir}/sysctl/{key}", f"{value}\n"), f"/proc/sys/{key}", flags=MS_BIND)
        mount("none", "/", flags=MS_SHARED)
        write("/etc/hosts", f"127.0.0.1 localhost\n{CP} cp\n")
        write("/etc/resolv.conf", f"nameserver {CP}\n")

    def start(self, name, command):
        self.parts[subprocess.Popen(command.split(), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                                    stdout=open(f"{self.dir}/{name}.log", "wb")).pid] = name

    def kube(self, part, flags, user=None, server=API):
        if user:
            flags += " --kubeconfig=" + kubeconfig(f"{self.dir}/{user}.kubeconfig", self.pki, user, server)
        self.start(part, f"{self.args.kube} {part} {flags}")

    def control_plane(self):
        ip("link add br0 type bridge", f"addr add {CP}/24 dev br0", "link set br0 up")
        write("/proc/sys/net/ipv4/ip_forward", "1")
        etcd, pki = "http://127.0.0.1:2379", self.pki
        self.start("etcd", f"""etcd --data-dir {self.dir}/etcd --log-level warn --listen-client-urls {etcd}
            --advertise-client-urls {etcd} --listen-peer-urls http://127.0.0.1:2380""")
        # aggregator routing: webhook calls go straight to the pod, as no kube-proxy runs here
        self.kube("kube-apiserver", f"""--advertise-address={CP} --etcd-servers={etcd} --allow-privileged=true
            --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --enable-aggregator-routing=true
            --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key --client-ca-file={pki}/ca.crt
            --service-cluster-ip-range={SERVICES}.0/16 --service-account-issuer=https://kubernetes.default.svc.{DOMAIN}
            --service-account-key-file={pki}/sa.pub --service-account-signing-key-file={pki}/sa.key
            --kubelet-client-certificate={pki}/kubelet-client.crt --kubelet-client-key={pki}/kubelet-client.key
            --kubelet-preferred-address-types=InternalIP
            --proxy-client-cert-file={pki}/front.crt --proxy-client-key-file={pki}/front.key
            --requestheader-client-ca-file={pki}/ca.crt --requestheader-allowed-names=front-proxy
            --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
            --requestheader-extra-headers-prefix=X-Remote-Extra-""")
        self.start("socat", f"socat UNIX-LISTEN:{self.state}/api.sock,fork,backlog=128 TCP:127.0.0.1:6443")
        wait_for("the API server", lambda: socket.create_connection(("127.0.0.1", 6443), 1))
        local = "--leader-elect=false --bind-address=127.0.0.1 --kube-api-qps=500 --kube-api-burst=500"
        self.kube("kube-controller-manager", f"""{local} --service-account-private-key-file={pki}/sa.key
            --root-ca-file={pki}/ca.crt --use-service-account-credentials=true --cluster-signing-cert-file={pki}/ca.crt
            --cluster-signing-key-file={pki}/ca.key""", "kube-controller-manager")
        self.kube("kube-scheduler", local, "kube-scheduler")
        self.kube("kube-dns", f"--listen={CP}:53 --domain={DOMAIN}", "admin")

    def node(self):
        address, server = f"{NET}.{10 + self.index}", f"https://{CP}:6443"
        plugins = next(d for d in ("/usr/lib/cni", "/usr/libexec/cni") if os.path.exists(f"{d}/bridge"))
        shutil.copytree(plugins, "/opt/cni/bin", dirs_exist_ok=True)
        write("/etc/cni/net.d/10-ambitkube.conflist", {"cniVersion": "0.4.0", "name": "ambitkube", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": {
                "type": "host-local", "ranges": [[{"subnet": f"{PODS}.{self.index}.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}}]})
        write("/etc/containerd/config.toml", f"""version = 2
            [plugins."io.containerd.grpc.v1.cri"]
            sandbox_image = "docker.io/{PAUSE}"
            restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE runc could not lower it\n""")
        self.start("containerd", "containerd")
        wait_for("eth0", lambda: os.path.exists("/sys/class/net/eth0"))
        ip(f"addr add {address}/24 dev eth0", "link set eth0 up", f"route add default via {CP}",
           *[f"route add {PODS}.{i}.0/24 via {NET}.{10 + i}" for i in range(1, self.args.nodes + 1) if i != self.index])
        write("/proc/sys/net/ipv4/ip_forward", "1")
        for archive in sorted(os.listdir(f"{self.state}/images")):
            wait_for("containerd", lambda: quiet(*IMPORT, f"{self.state}/images/{archive}"))
        wait_for("the API server", lambda: socket.create_connection((CP, 6443), 1))
        none = {k: "0%" for k in ("imagefs.available", "imagefs.inodesFree", "nodefs.available", "nodefs.inodesFree")}
        config = write(f"{self.dir}/kubelet.json", {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                               "x509": {"clientCAFile": f"{self.pki}/ca.crt"}}, "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock", "cgroupDriver": "cgroupfs",
            "clusterDomain": DOMAIN, "clusterDNS": [CP], "oomScoreAdj": 0, "failSwapOn": False, "failCgroupV1": False,
            "evictionHard": none, "imageGCHighThresholdPercent": 100, "localStorageCapacityIsolation": False,
            "enforceNodeAllocatable": [], "nodeStatusUpdateFrequency": "4s"})
        self.kube("kubelet", f"--hostname-override={self.name} --node-ip={address} --config={config}", self.name, server)
        proxy = kubeconfig(f"{self.dir}/proxy.kubeconfig", self.pki, "kube-proxy", server)
        self.kube("kube-proxy", "--config=" + write(f"{self.dir}/proxy.json", {
            "kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "mode": self.args.proxy_mode, "clusterCIDR": f"{PODS}.0.0/16", "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": proxy}, "oomScoreAdj": 0,
            "conntrack": {"maxPerCore": 0, "min": 0}}))  # not settable outside the first network namespace

# --- on the machine

def born(pid):
    """When a living process started: tells it from a later one with the same number."""
    try:
        return (fields := read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split())[0] != "Z" and fields[19]
    except OSError:
        return None

def running(state):
    """Name and PID of what this state directory has running."""
    found = {path.split("/")[-2]: read(path).split() for path in glob.glob(f"{state}/*/pid")}
    return {name: int(pid) for name, (pid, start) in found.items() if born(pid) == start}

def groups(state):
    """The cgroup of a cluster, in every hierarchy."""
    own = "ambitkube-" + hashlib.sha256(os.path.realpath(state).encode()).hexdigest()[:8]
    tops = [CGROUPS] if V2 else [f"{CGROUPS}/{d}" for d in os.listdir(CGROUPS)]
    return [f"{t}/{own}" for t in tops if os.path.exists(f"{t}/cgroup.procs")]

def isolate(state, name):
    """Make the calling process, about to become a box, leave the machine's cgroups and namespaces."""
    for parent in groups(state):
        for g in (parent, f"{parent}/{name}"):
            os.makedirs(g, exist_ok=True)
            if V2:
                write(f"{os.path.dirname(g)}/cgroup.subtree_control", "+cpu +cpuset +io +memory +pids")
            for f in ("cpuset.cpus", "cpuset.mems"):
                if not V2 and os.path.exists(f"{g}/{f}"):  # empty in a new group
                    write(f"{g}/{f}", read(f"{os.path.dirname(g)}/{f}"))
        write(f"{parent}/{name}/cgroup.procs", str(os.getpid()))
    syscall(libc.unshare(NEW_ALL))

def detach(directory, command, prepare=None):
    os.makedirs(directory)
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=open(f"{directory}/box.log", "wb"),
                            stderr=subprocess.STDOUT, env=env, start_new_session=True, preexec_fn=prepare)

def up(args):
    state, began = args.state, time.time()
    if os.path.exists(state) or not os.path.exists(args.kube):
        raise SystemExit(f"{state} exists already (`down` first), or {args.kube} does not (`build` first)")
    names = [f"kn{i}" for i in range(1, args.nodes + 1)]

    def say(what):
        print(f"{time.time() - began:6.1f} s  {what}", flush=True)

    make_pki(f"{state}/pki", names)
    base_images(state)
    say("certificates and images made")
    for name in ["cp"] + names:
        command = [sys.executable, __file__, f"--state={state}", f"--kube={args.kube}", f"--nodes={args.nodes}",
                   f"--proxy-mode={args.proxy_mode}", f"--box={name}", "_box"]
        detach(f"{state}/{name}", command, lambda: isolate(state, name)).wait()
        wait_for(name, lambda: name in running(state))
    pids = running(state)
    with socket.create_server(("127.0.0.1", args.port)) as probe:
        port = probe.getsockname()[1]
    outside = detach(f"{state}/forward", ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=128",
                                          f"UNIX-CONNECT:{state}/api.sock"])
    write(f"{state}/forward/pid", f"{outside.pid} {born(outside.pid)}")
    admin = kubeconfig(f"{state}/kubeconfig", f"{state}/pki", "admin", f"https://127.0.0.1:{port}")
    kubectl, inside = [args.kube, "kubectl"], ["nsenter", "-t", pids["cp"], "-n"]
    wait_for("the bridge", lambda: quiet(*inside, "ip", "route", "show", "dev", "br0"))
    for i, name in enumerate(names, 1):
        ip(f"link add {name} type veth peer name eth0 netns {pids[name]}", f"link set {name} master br0 up",
           f"route add {PODS}.{i}.0/24 via {NET}.{10 + i}", inside=inside)
    wait_for("the API server", lambda: quiet(*kubectl, "get", "--raw=/readyz"))
    say("API server ready")
    wait_for("the controllers", lambda: quiet(*kubectl, "get", "serviceaccount", "default"))
    say("controllers at work")
    for i, name in enumerate(names, 1):
        patch = json.dumps({"spec": {"podCIDR": f"{PODS}.{i}.0/24"}})
        wait_for(name, lambda: quiet(*kubectl, "patch", "node", name, "-p", patch))
        quiet(*kubectl, "wait", "node", name, "--for=condition=Ready", "--timeout=120s")
        say(f"node {name} ready")
    print(f"export KUBECONFIG={admin}")

def down(args):
    if not os.path.exists(f"{args.state}/pki/sa.key"):
        raise SystemExit(f"no cluster in {args.state}")
    for pid in running(args.state).values():
        os.kill(pid, signal.SIGKILL)
    wait_for("the processes to end", lambda: not running(args.state))
    for group in groups(args.state):
        for path, _, _ in os.walk(group, topdown=False):
            wait_for(f"{path} to empty", lambda: os.rmdir(path) is None, 30)
    shutil.rmtree(args.state)

def enter(args, name):
    if name not in (boxes := running(args.state)):
        raise SystemExit(f"{name} does not run; these do: {' '.join(boxes)}")
    return ["nsenter", "-t", str(boxes[name]), "-a"]

def image(args):
    name, path = args.words
    archive = f"{args.state}/images/{hashlib.sha256(name.encode()).hexdigest()[:12]}.tar"
    oci_image(archive, name, path, shlex.split(args.entrypoint or "/" + os.path.basename(path)), args.env)
    for node in running(args.state):
        if node.startswith("kn"):
            quiet(*enter(args, node), *IMPORT, archive)

def build(args):
    """Compile the binary; -X gives it the version of the Kubernetes module it is made from."""
    version = quiet("go", "list", "-C", HERE, "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").strip()
    stamp = [f"-X {p}.git{k}={v}" for p in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
             for k, v in zip(("Version", "Major", "Minor"), (version, *version[1:].split(".")[:2]))]
    os.makedirs(os.path.dirname(args.kube), exist_ok=True)
    sh("go", "build", "-C", HERE, "-trimpath", "-ldflags=-s -w " + " ".join(stamp), "-o", args.kube, ".",
       env={**os.environ, "CGO_ENABLED": "0"})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--state", default="/tmp/ambit-kube", help="its directory, not under /etc /opt /run /var (%(default)s)")
    p.add_argument("--kube", default=f"{CACHE}/kube", help="the multi-call binary (%(default)s)")
    p.add_argument("--nodes", type=int, default=1, help="number of nodes (%(default)s)")
    p.add_argument("--port", type=int, default=0, help="API port on the machine's loopback (default: a free one)")
    p.add_argument("--proxy-mode", choices=["iptables", "nftables"], default="iptables")
    p.add_argument("--entrypoint", help="image: its command line (default: the binary)")
    p.add_argument("--env", action="append", default=[], help="image: NAME=VALUE")
    p.add_argument("--box", help=argparse.SUPPRESS)
    verbs = {"build": build, "up": up, "down": down, "image": image, "_box": Box}
    p.add_argument("verb", choices=[*verbs, "kubectl", "node"], metavar="VERB")
    p.add_argument("words", nargs="*", metavar="ARG")
    cut = next((i + 1 for i, a in enumerate(sys.argv) if a in ("kubectl", "node")), len(sys.argv))
    args = p.parse_intermixed_args(sys.argv[1:cut])
    args.words += sys.argv[cut:]
    args.state, args.kube = os.path.abspath(args.state), os.path.abspath(args.kube)
    os.environ.update(KUBECONFIG=f"{args.state}/kubeconfig", KUBECACHEDIR=f"{args.state}/cache")
    if args.verb == "kubectl" and enter(args, "cp"):
        os.execv(args.kube, ["kubectl", *args.words])
    if args.verb == "node":
        os.execvp("nsenter", [*enter(args, args.words[0]), *args.words[1:]])
    verbs[args.verb](args)

if __name__ == "__main__":
    main()
