// Command kubernetes is unpatched upstream Kubernetes, and kine as its store, in one static program.
//
// The part that runs is chosen by the program's name or, where that is not one of the parts, by the first argument:
//
//	kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl, kine
//	kube-server      several of them in one process, each with its own arguments (see server.go)
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // CronJob time zones, as upstream's kube-apiserver and kube-controller-manager link them

	"github.com/k3s-io/kine/pkg/app"
	"github.com/opencontainers/cgroups"
	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// parts maps a part's name to what upstream's main function of that name does. args are without the program's name.
var parts = map[string]func(args []string) int{
	"kube-apiserver":          func(args []string) int { return runCobra(apiserver.NewAPIServerCommand(), args) },
	"kube-controller-manager": func(args []string) int { return runCobra(controllermanager.NewControllerManagerCommand(), args) },
	"kube-scheduler":          func(args []string) int { return runCobra(scheduler.NewSchedulerCommand(), args) },
	"kubelet":                 runKubelet,
	"kubectl":                 runKubectl,
	"kine":                    runKine,
	"kube-server":             runServer,
}

func main() {
	// kubectl and its plugins look at os.Args themselves: it must read as if the part had been called by its name.
	os.Args[0] = filepath.Base(os.Args[0])
	part, ok := parts[os.Args[0]]
	if !ok && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		part, ok = parts[os.Args[0]]
	}
	if !ok {
		names := make([]string, 0, len(parts))
		for name := range parts {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "kubernetes: unknown part %q: the first argument, or the program's name, is one of %s\n",
			os.Args[0], strings.Join(names, ", "))
		os.Exit(2)
	}
	os.Exit(part(os.Args[1:]))
}

func runCobra(command *cobra.Command, args []string) int {
	command.SetArgs(args)
	return cli.Run(command)
}

// uncheckedCgroupFiles, set to anything in the environment, has the kubelet take cgroup files of whatever file system.
// Where openat2(2) is missing, its cgroup library refuses those that do not say that they are the kernel's, such as those of
// a FUSE file system. What the library calls its test mode leaves that question out, and opens what it writes with O_CREAT
// and O_TRUNC, which change nothing about files that are there.
const uncheckedCgroupFiles = "TERRARIUM_UNCHECKED_CGROUP_FILES"

func runKubelet(args []string) int {
	cgroups.TestMode = os.Getenv(uncheckedCgroupFiles) != ""
	return runCobra(kubelet.NewKubeletCommand(context.Background()), args)
}

func runKubectl([]string) int {
	// As upstream's cmd/kubectl: errors are printed in kubectl's own way and carry its exit codes.
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return 0
}

func runKine(args []string) int {
	if err := app.New().Run(append([]string{"kine"}, args...)); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "kine:", err)
		return 1
	}
	return 0
}
