package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/k3s-io/kine/pkg/app"
	"github.com/k3s-io/kine/pkg/endpoint"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	scheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// runServer runs several parts of the control plane as goroutines of this process: half the memory of separate ones.
//
//	kube-server kine ARG… -- kube-apiserver ARG… -- kube-controller-manager ARG… -- kube-scheduler ARG…
//
// Each section is the part's own name and arguments. The parts start in the order given: kine listens before the next
// one starts, and what needs the API waits until the API server says that it is ready. All must be given the same -v:
// logging is configured once per process. The process ends when any of its parts does, so that the supervisor sees it.
// SIGTERM and SIGINT stop the API server gracefully, and with it the process; for no longer than shutdownGrace, because
// the API server waits for the end of watches, and those of the other parts in this process never end.
func runServer(args []string) int {
	// The parts configure the same global logger, each from the same flags.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	ended := make(chan error)
	running := 0
	for _, section := range sections(args) {
		start, ok := serverParts[section[0]]
		if !ok {
			fmt.Fprintf(os.Stderr, "kube-server: %q cannot run inside kube-server\n", section[0])
			return 2
		}
		run, err := start(ctx, section[1:])
		if err != nil {
			fmt.Fprintf(os.Stderr, "kube-server: %s: %v\n", section[0], err)
			return 1
		}
		running++
		go func() {
			err := run()
			if err != nil {
				err = fmt.Errorf("%s: %w", section[0], err)
			}
			ended <- err
		}()
	}
	if running == 0 {
		fmt.Fprintln(os.Stderr, "kube-server: no part given")
		return 2
	}
	select {
	case err := <-ended:
		if err != nil {
			fmt.Fprintln(os.Stderr, "kube-server:", err)
			return 1
		}
	case <-afterSignal(shutdownGrace):
	}
	return 0
}

// shutdownGrace is enough for requests under way. What the store has acknowledged is on the disk in any case.
const shutdownGrace = time.Second

// afterSignal tells when the time has passed since SIGTERM or SIGINT came.
func afterSignal(grace time.Duration) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	passed := make(chan struct{})
	go func() {
		<-signals
		time.Sleep(grace)
		close(passed)
	}()
	return passed
}

// sections splits the arguments at each "--" and drops empty sections.
func sections(args []string) [][]string {
	var all [][]string
	for len(args) > 0 {
		end := slices.Index(args, "--")
		if end < 0 {
			end = len(args)
		}
		if end > 0 {
			all = append(all, args[:end])
		}
		args = args[min(end+1, len(args)):]
	}
	return all
}

// A startFunc does what must be done before the next part starts, and returns what runs until the part ends.
type startFunc func(ctx context.Context, args []string) (run func() error, err error)

var serverParts = map[string]startFunc{
	"kine": startKine,
	"kube-apiserver": func(ctx context.Context, args []string) (func() error, error) {
		return executeCobra(apiserver.NewAPIServerCommand(), args), nil
	},
	"kube-controller-manager": func(ctx context.Context, args []string) (func() error, error) {
		return whenReady(ctx, args, executeCobra(controllermanager.NewControllerManagerCommand(), args))
	},
	"kube-scheduler": startScheduler,
}

func executeCobra(command *cobra.Command, args []string) func() error {
	command.SetArgs(args)
	command.SilenceErrors = true
	return command.Execute
}

func startKine(ctx context.Context, args []string) (func() error, error) {
	if _, err := endpoint.Listen(ctx, app.Config(args)); err != nil {
		return nil, err
	}
	return func() error {
		<-ctx.Done()
		return nil
	}, nil
}

// startScheduler does what the scheduler's command does, except installing a second signal handler: upstream's
// SetupSignalHandler panics when it is called twice in a process, and the API server has called it.
func startScheduler(ctx context.Context, args []string) (func() error, error) {
	options := scheduleroptions.NewOptions()
	flags := pflag.NewFlagSet("kube-scheduler", pflag.ContinueOnError)
	for _, set := range options.Flags.FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	return whenReady(ctx, args, func() error {
		config, sched, err := scheduler.Setup(ctx, options)
		if err != nil {
			return err
		}
		return scheduler.Run(ctx, config, sched)
	})
}

// whenReady makes run wait until the API server, at the address and with the credentials of the section's --kubeconfig,
// says that it is ready. Upstream's controller manager waits ten seconds and then gives up, which on a slow machine
// would end this whole process; and who comes before the RBAC bootstrap is refused and backs off for seconds.
func whenReady(ctx context.Context, args []string, run func() error) (func() error, error) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.ParseErrorsWhitelist.UnknownFlags = true
	kubeconfig := flags.String("kubeconfig", "", "")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return func() error {
		for !isReady(client, config.Host) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
		return run()
	}, nil
}

func isReady(client *http.Client, host string) bool {
	response, err := client.Get(host + "/readyz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}
