// monitoring reads what podroute offers to Prometheus as Prometheus and its operator read it, and prints, as JSON, which metrics
// each expression asks for.
//
//	monitoring alerts.yaml podmonitor.yaml      checks the kinds PrometheusRule and PodMonitor: no unknown field, right expressions
//	monitoring -                                checks expressions, one a line of the standard input
//
// It exits with 1 and says why when something would be refused. A test of the manifests calls it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

func main() {
	metrics := map[string][]string{}
	for _, name := range os.Args[1:] {
		var err error
		if name == "-" {
			err = readExpressions(metrics)
		} else {
			err = readObject(name, metrics)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
	}
	json.NewEncoder(os.Stdout).Encode(metrics)
}

func readExpressions(metrics map[string][]string) error {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := note(lines.Text(), metrics); err != nil {
			return err
		}
	}
	return nil
}

func readObject(name string, metrics map[string][]string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var about struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal(text, &about); err != nil {
		return err
	}
	switch about.Kind {
	case "PodMonitor":
		return yaml.UnmarshalStrict(text, &monitoringv1.PodMonitor{})
	case "PrometheusRule":
		return readRules(text, metrics)
	}
	return fmt.Errorf("kind %q is neither PodMonitor nor PrometheusRule", about.Kind)
}

// The groups are what Prometheus itself reads from a file, templates of labels and annotations included.
func readRules(text []byte, metrics map[string][]string) error {
	var rule monitoringv1.PrometheusRule
	if err := yaml.UnmarshalStrict(text, &rule); err != nil {
		return err
	}
	groups, err := yaml.Marshal(map[string]any{"groups": rule.Spec.Groups})
	if err != nil {
		return err
	}
	_, errs := rulefmt.Parse(groups, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if len(errs) > 0 {
		return errs[0]
	}
	for _, group := range rule.Spec.Groups {
		for _, each := range group.Rules {
			if err := note(each.Expr.String(), metrics); err != nil {
				return err
			}
		}
	}
	return nil
}

func note(expression string, metrics map[string][]string) error {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		return fmt.Errorf("%s: %w", expression, err)
	}
	metrics[expression] = []string{}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			metrics[expression] = append(metrics[expression], selector.Name)
		}
		return nil
	})
	return nil
}
